"""YAML that keeps line numbers, refuses duplicate keys and has no surprises in its plain values.

Plain values follow the core schema of YAML 1.2. PyYAML follows 1.1, where `1e-4` is a string, `no` is
false, `010` is 8, `1:30` is 90 and `2026-01-01` is a date.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from rewardlab.core.errors import UserError

Key = str | int
Path = tuple[Key, ...]

_PLAIN = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0o[0-7_]+)", list("-+0123456789")),
    "float": (
        r"[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|\.[0-9][0-9_]*([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}


class _Dumper(yaml.SafeDumper):
    """Quotes whatever either YAML 1.1 or 1.2 would not read back as the same string."""

    yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeDumper.yaml_implicit_resolvers.items()}

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    """PyYAML escapes these line separators between double quotes only; elsewhere they would be lost."""
    style = '"' if any(c in text for c in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
for _tag, (_pattern, _first) in _PLAIN.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^({_pattern})$"), _first)


def parse_value(text: str) -> Any:
    """One value as on the right of `key: `; raises yaml.YAMLError or ValueError where it is none."""
    return yaml.load(text, Loader=_Loader)


def dump(data: Any) -> str:
    """Block YAML that `parse_value` reads back as equal data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def parse_file(text: str, name: str, problems: list[str]) -> tuple[Any, dict[Path, str]]:
    """Data of a YAML text, and `name:line` for the path of every value in it.

    Duplicate keys are added to `problems`. Raises UserError where the text is not YAML at all.
    """
    reading = _Reading(name, problems)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        data = None if node is None else reading.build(loader, node, ())
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(
            f"{name}:{line}: not valid YAML ({error.problem}).",
            "Check indentation, colons and quotes there.",
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(
            f"{name}: not valid YAML ({str(error).splitlines()[0]}).", "Save it as UTF-8 text."
        ) from error
    return data, reading.origins


class _Reading:
    """One pass over a node tree."""

    def __init__(self, name: str, problems: list[str]) -> None:
        self.name, self.problems = name, problems
        self.origins: dict[Path, str] = {}
        self.flattened: set[int] = set()
        self.open: set[int] = set()

    def build(self, loader: _Loader, node: yaml.Node, path: Path) -> Any:
        """Plain Python of a node, noting the line of every value."""
        self.origins[path] = f"{self.name}:{node.start_mark.line + 1}"
        if isinstance(node, yaml.ScalarNode):
            return loader.construct_object(node)
        if id(node) in self.open:
            raise yaml.MarkedYAMLError(problem="a value contains itself", problem_mark=node.start_mark)
        self.open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            found: Any = self._mapping(loader, node, path)
        else:
            found = [self.build(loader, item, (*path, i)) for i, item in enumerate(node.value)]
        self.open.discard(id(node))
        return found

    def _mapping(self, loader: _Loader, node: yaml.MappingNode, path: Path) -> dict[Any, Any]:
        if id(node) not in self.flattened:
            self._refuse_duplicates(loader, node)
            loader.flatten_mapping(node)  # puts the keys of `<<: *anchor` first
            self.flattened.add(id(node))
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(loader, key_node)
            found[key] = self.build(loader, value_node, (*path, key))
            self.origins[(*path, key)] = f"{self.name}:{key_node.start_mark.line + 1}"
        return found

    def _refuse_duplicates(self, loader: _Loader, node: yaml.MappingNode) -> None:
        first: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag.endswith(":merge"):
                continue
            key, line = self._key(loader, key_node), key_node.start_mark.line + 1
            if key in first:
                self.problems.append(
                    f"{self.name}:{line}: the key {key!r} stands twice (first on line {first[key]})."
                )
            first.setdefault(key, line)

    def _key(self, loader: _Loader, node: yaml.Node) -> Any:
        key = loader.construct_object(node, deep=True)
        if not isinstance(key, Hashable):
            raise yaml.MarkedYAMLError(problem="a key must be a plain word", problem_mark=node.start_mark)
        return key

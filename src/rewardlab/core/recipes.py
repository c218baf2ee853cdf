"""Settings from YAML and the command line, each value with its origin, each mistake with its place."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from rich.text import Text

from rewardlab.core.errors import UserError

M = TypeVar("M", bound=BaseModel)
Key = str | int
Path_ = tuple[Key, ...]


@dataclass(frozen=True)
class Resolved(Generic[M]):
    """A validated model and where each given value came from."""

    value: M
    origins: Mapping[Path_, str]
    """Path of a given leaf -> `file:line` or `command line`; leaves that are not here are defaults."""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which `1e-4` is a number; the 1.1 rules of PyYAML make it a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def load_settings(
    model: type[M], source: Path | Mapping[str, Any], overrides: list[str] | None = None
) -> Resolved[M]:
    """Read a YAML file (or take a mapping), apply `key.sub=value` overrides, validate.

    All problems are listed at once, each with its place: unknown keys with the nearest valid name, wrong
    types with what was expected, duplicate keys, overrides that point nowhere.
    """
    origins: dict[Path_, str] = {}
    name = "recipe"
    if isinstance(source, Mapping):
        data: Any = _copy(source)
    else:
        name = str(source)
        data = _read(source, origins)
    if not isinstance(data, dict):
        raise UserError(f"{name}: a mapping of settings is needed at the top.", "Start with `name: ...`.")
    for change in overrides or []:
        _override(data, change, origins)
    try:
        value = model.model_validate(data)
    except ValidationError as error:
        problems = [_describe(model, data, origins, name, e) for e in error.errors()]
        raise UserError(
            "\n".join(dict.fromkeys(problems)), "`--explain` shows every setting with its meaning."
        ) from error
    return Resolved(value, origins)


def dump_yaml(model: BaseModel) -> str:
    """YAML of every setting; it loads back to an equal model."""
    return yaml.safe_dump(model.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def explain(resolved: Resolved[Any]) -> Text:
    """Every leaf with its value, origin and meaning."""
    text = Text()
    for path, value, meaning in leaves(resolved.value):
        origin = resolved.origins.get(path, "default")
        text.append(f"{dotted(path)}: ", style="bold")
        text.append(f"{value!r}", style="cyan" if origin != "default" else "")
        text.append(f"   [{origin}]", style="dim" if origin == "default" else "yellow")
        text.append(f"\n    {' '.join(meaning.split())}\n" if meaning else "\n", style="dim")
    return text


def leaves(value: Any, path: Path_ = (), meaning: str = "") -> Iterator[tuple[Path_, Any, str]]:
    """All leaves of a model as (path, value, field docstring)."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            yield from leaves(getattr(value, name), (*path, name), field.description or "")
    elif isinstance(value, list) and any(isinstance(v, BaseModel) for v in value):
        for i, item in enumerate(value):
            yield from leaves(item, (*path, i), meaning)
    elif isinstance(value, dict) and any(isinstance(v, BaseModel) for v in value.values()):
        for name, item in value.items():
            yield from leaves(item, (*path, name), meaning)
    else:
        yield path, value, meaning


def dotted(path: Path_) -> str:
    """`stages.2.steps`."""
    return ".".join(map(str, path))


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value


def _read(file: Path, origins: dict[Path_, str]) -> Any:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        names = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
        near = difflib.get_close_matches(file.name, names, n=1)
        hint = f"Did you mean {file.parent / near[0]}?" if near else "Give the path of a YAML file."
        raise UserError(f"the recipe {file} cannot be read ({error.strerror}).", hint) from error
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else _build(loader, node, (), file, origins)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(
            f"{file}:{line}: not valid YAML ({error.problem}).", "Check the indentation."
        ) from error


def _build(loader: _Loader, node: yaml.Node, path: Path_, file: Path, origins: dict[Path_, str]) -> Any:
    """Plain Python of a YAML node, noting the line of every value."""
    origins[path] = f"{file}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if key in found:
                raise UserError(f"{file}:{line}: the key {key!r} stands twice.", "Remove one of them.")
            found[key] = _build(loader, value_node, (*path, key), file, origins)
            origins[(*path, key)] = f"{file}:{line}"
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*path, i), file, origins) for i, item in enumerate(node.value)]
    return loader.construct_object(node)


def _override(data: dict[str, Any], change: str, origins: dict[Path_, str]) -> None:
    """Apply `a.b.c=value`; an item of a list is named by its number, its `name` or its `kind`."""
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise UserError(f"the override {change!r} is not key=value.", "Write it as `key.sub=value`.")
    value = yaml.load(text, Loader=_Loader)
    at: Any = data
    path: list[Key] = []
    parts = key.split(".")
    for part in parts[:-1]:
        place = _step(at, part, change)
        path.append(place)
        if isinstance(at, dict):
            if not isinstance(at.get(place), dict | list):
                bare = at.get(place)  # a short form such as `model: path` or `data: path`
                field = "path" if place == "model" else "source"
                at[place] = {} if bare is None else {field: bare}
            at = at[place]
        else:
            at = at[place]
    last = _step(at, parts[-1], change)
    at[last] = value
    full = (*path, last)
    for old in [p for p in origins if p[: len(full)] == full]:
        del origins[old]
    origins[full] = "command line"


def _step(at: Any, part: str, change: str) -> Key:
    if isinstance(at, dict):
        return part
    if isinstance(at, list):
        if part.isdigit() and int(part) < len(at):
            return int(part)
        names = [i.get("name") or i.get("kind") if isinstance(i, dict) else None for i in at]
        if part in names:
            return names.index(part)
        known = ", ".join(str(n) for n in names if n) or f"0 to {len(at) - 1}"
        raise UserError(f"the override {change!r}: there is no item {part!r}.", f"Items: {known}.")
    raise UserError(f"the override {change!r} goes below a plain value.", "Shorten the key.")


def _describe(
    model: type[BaseModel], data: Any, origins: Mapping[Path_, str], name: str, error: Mapping[str, Any]
) -> str:
    """One problem as a sentence with its place."""
    path, owner = _locate(model, data, error["loc"])
    place = next((origins[path[:n]] for n in range(len(path), -1, -1) if path[:n] in origins), name)
    where = dotted(path)
    if error["type"] == "extra_forbidden":
        valid = list(owner.model_fields) if owner else []
        near = difflib.get_close_matches(str(path[-1]), valid, n=1, cutoff=0.5)
        parent = f" in {dotted(path[:-1])}" if len(path) > 1 else ""
        hint = f"did you mean `{near[0]}`?" if near else f"valid: {', '.join(valid)}."
        return f"{place}: unknown key `{path[-1]}`{parent}; {hint}"
    message = str(error["msg"]).removeprefix("Value error, ").rstrip(".")
    given = error.get("input")
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{place}: {where or 'the recipe'}: {message}{shown}."


def _locate(model: type[BaseModel], data: Any, loc: tuple[Key, ...]) -> tuple[Path_, type[BaseModel] | None]:
    """The path in the data of a pydantic location (which also names union tags), and the owning model."""
    path: list[Key] = []
    annotation: Any = model
    owner: type[BaseModel] | None = model
    at = data
    for number, part in enumerate(loc):
        options = list(_models(annotation))
        tagged = [m for m in options if _kind(m) == part]
        inside = (isinstance(at, dict) and part in at) or (isinstance(at, list) and isinstance(part, int))
        if tagged and not (inside and number == len(loc) - 1):
            annotation, owner = tagged[0], tagged[0]
            continue
        if not inside and number < len(loc) - 1:
            continue
        path.append(part)
        owner = next((m for m in options if part in m.model_fields), options[0] if options else owner)
        if isinstance(part, str):
            field = owner.model_fields.get(part) if owner else None
            annotation = field.annotation if field else None
        at = at[part] if inside else None
    return tuple(path), owner


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The settings models inside an annotation: through Optional, Annotated, lists and dicts."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, list, dict, tuple, Annotated):
        for part in get_args(annotation):
            yield from _models(part)


def _kind(model: type[BaseModel]) -> Any:
    field = model.model_fields.get("kind")
    return field.default if field else None

"""Settings from YAML and the command line, each value with its origin, each mistake with its place."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from rich.text import Text

from rewardlab.core import schema, yaml_lines
from rewardlab.core.errors import UserError
from rewardlab.core.yaml_lines import Key, Path

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Resolved(Generic[M]):
    """A validated model and where each of its leaves came from."""

    value: M
    origins: Mapping[Path, str]
    """Path of every leaf -> `file:line`, `command line`, `given` (a mapping from Python) or `default`."""


def load_settings(
    model: type[M], source: File | Mapping[str, Any], overrides: list[str] | None = None
) -> Resolved[M]:
    """Read a YAML file (or take a mapping), apply `key.sub=value` overrides, validate.

    All problems are listed at once, each with its place: unknown keys with the nearest valid name, wrong
    types with what was expected, duplicate keys, overrides that point nowhere.
    """
    problems: list[str] = []
    if isinstance(source, Mapping):
        name, data = "recipe", _copy(source)
        origins: dict[Path, str] = {(): "given"}
    else:
        name = str(source)
        data, origins = yaml_lines.parse_file(_read(source), name, problems)
    if not isinstance(data, dict):
        raise UserError(f"{name}: a mapping of settings is needed at the top.", "Start with `name: ...`.")
    for change in overrides or []:
        if problem := _override(model, data, change, origins):
            problems.append(f"command line: {problem}")
    shown = {path: name if origin == "given" else origin for path, origin in origins.items()}
    try:
        value = model.model_validate(data)
    except ValidationError as error:
        problems += [schema.describe(model, data, shown, name, e) for e in error.errors()]
    if problems:
        raise UserError(
            "\n".join(dict.fromkeys(problems)), "`--explain` on a valid recipe shows every setting."
        )
    return Resolved(value, dict(_origins(value, data, origins)))


def dump_yaml(model: BaseModel) -> str:
    """YAML of every setting; it loads back to an equal model."""
    return yaml_lines.dump(model.model_dump(mode="json"))


def explain(resolved: Resolved[Any]) -> Text:
    """Every leaf with the key that an override would use, its value, origin and meaning."""
    text = Text()
    for path, value, meaning in leaves(resolved.value):
        origin = resolved.origins[path]
        text.append(f"{'.'.join(map(str, path))}: ", style="bold")
        text.append(f"{value!r}", style="cyan" if origin != "default" else "")
        text.append(f"   [{origin}]", style="dim" if origin == "default" else "yellow")
        text.append(f"\n    {' '.join(meaning.split())}\n" if meaning else "\n", style="dim")
    return text


def differences(old: Any, new: Any) -> list[str]:
    """`stages.sft.steps (100 -> 200)` for each leaf in which two nested data differ."""
    return list(_differences(old, new, (), new))


def leaves(value: Any, path: Path = (), meaning: str = "") -> Iterator[tuple[Path, Any, str]]:
    """All leaves of a model as (path, value, field docstring); a list or dict without models is a leaf."""
    inner = list(_inside(value))
    if not inner and not isinstance(value, BaseModel):
        yield path, value, meaning
    for key, item in inner:
        field = type(value).model_fields[str(key)] if isinstance(value, BaseModel) else None
        yield from leaves(item, (*path, key), meaning if field is None else field.description or "")


def _inside(value: Any) -> Iterator[tuple[Key, Any]]:
    if isinstance(value, BaseModel):
        yield from ((name, getattr(value, name)) for name in type(value).model_fields)
    elif isinstance(value, list | tuple) and any(isinstance(v, BaseModel) for v in value):
        yield from enumerate(value)
    elif isinstance(value, dict) and any(isinstance(v, BaseModel) for v in value.values()):
        yield from value.items()


def _origins(
    value: Any, data: Any, origins: Mapping[Path, str], path: Path = (), at: Path = (), given: bool = True
) -> Iterator[tuple[Path, str]]:
    """The origin of each leaf. `path` runs through the model, `at` through the data as it was written:
    they differ where a short form was written."""
    inner = list(_inside(value))
    if not inner and not isinstance(value, BaseModel):
        origin = schema.place(origins, at, "given") if given else "default"
        changed = any(o == "command line" for p, o in origins.items() if p[: len(at)] == at and p != at)
        yield path, f"{origin}, command line" if given and changed and origin != "command line" else origin
    for key, item in inner:
        was_set = given and not (isinstance(value, BaseModel) and key not in value.model_fields_set)
        found, below = schema.step_into(data, key)
        inner_at = (*at, key) if found else at
        yield from _origins(item, below if found else data, origins, (*path, key), inner_at, was_set)


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list | tuple) else value


def _read(file: File) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        names = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
        near = difflib.get_close_matches(file.name, names, n=1)
        hint = f"Did you mean {file.parent / near[0]}?" if near else "Give the path of a YAML file."
        raise UserError(f"the recipe {file} cannot be read ({error.strerror}).", hint) from error
    except UnicodeDecodeError as error:
        raise UserError(f"the recipe {file} is not UTF-8 text.", "Give the path of a YAML file.") from error


def _override(
    model: type[BaseModel], data: dict[str, Any], change: str, origins: dict[Path, str]
) -> str | None:
    """Apply `a.b.c=value` in place; an item of a list goes by its number, its `name` or its `kind`.

    Returns what is wrong with it, if anything.
    """
    key, equals, text = change.partition("=")
    if not equals or not key:
        return f"the override {change!r} is not key=value; write it as `key.sub=value`."
    try:
        value = yaml_lines.parse_value(text)
    except (yaml.YAMLError, ValueError) as error:
        return f"the value of {change!r} is not valid YAML ({getattr(error, 'problem', error)})."
    at: Any = data
    path: Path = ()
    for word in key.split("."):
        if path:
            at, problem = _enter(model, data, path, word, origins)
            if problem:
                return problem
        step, problem = _item(at, word, schema.label(path, data))
        if problem:
            return problem
        path = (*path, step)
    at[path[-1]] = value
    for old in [p for p in origins if p[: len(path)] == path]:
        del origins[old]
    origins[path] = "command line"
    return None


def _enter(
    model: type[BaseModel], data: Any, path: Path, word: str, origins: dict[Path, str]
) -> tuple[Any, str]:
    """The mapping or list at `path`, in which `word` is to be set; made where there is none.

    Short forms are written out where needed: one item that stands for a list, and a bare value that
    stands for the first field of the settings there (`model: folder`).
    """
    around = data
    for key in path[:-1]:
        around = around[key]
    inner = schema.step_into(around, path[-1])[1]
    if word.isdigit() and schema.is_single_item(model, data, path):
        inner = around[path[-1]] = [inner]
        for old in [p for p in origins if p[: len(path)] == path]:
            origins[(*path, 0, *old[len(path) :])] = origins[old]
    if isinstance(inner, dict | list):
        return inner, ""
    fields = [f for owner in schema.owners(model, data, path) for f in list(owner.model_fields)[:1]]
    if inner is not None and not fields:
        return None, f"{schema.label(path, data)} is no mapping, so it has no {word!r}."
    if inner is None:
        origins[path] = "command line"
    else:
        origins[(*path, fields[0])] = schema.place(origins, path, "given")
    around[path[-1]] = {} if inner is None else {fields[0]: inner}
    return around[path[-1]], ""


def _item(at: Any, word: str, where: str) -> tuple[Key, str]:
    """The key or index that one word of an override means."""
    if not isinstance(at, list):
        return word, ""
    if word.isdigit() and int(word) < len(at):
        return int(word), ""
    names = schema.item_names(at)
    if names.count(word) == 1:
        return names.index(word), ""
    if word in names:
        numbers = ", ".join(str(i) for i, n in enumerate(names) if n == word)
        return word, f"{where} has several items {word!r}; use a number: {numbers}."
    known = ", ".join(n for n in names if n) or (f"0 to {len(at) - 1}" if at else "none")
    return word, f"{where}: there is no item {word!r}. Items: {known}."


_ABSENT = object()


def _differences(old: Any, new: Any, path: Path, data: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(key, _ABSENT), new.get(key, _ABSENT), (*path, key), data)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i in range(len(old)):
            yield from _differences(old[i], new[i], (*path, i), data)
    elif old != new:
        yield f"{schema.label(path, data)} ({_short(old)} -> {_short(new)})"


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "not set"
    if isinstance(value, list | dict):
        return f"{len(value)} entries"
    return repr(value) if len(repr(value)) <= 40 else repr(value)[:37] + "..."

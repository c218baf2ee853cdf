"""Finding one's way in nested settings: which models may own a place, and what a mistake there is called."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from rewardlab.core.yaml_lines import Key, Path


def step_into(data: Any, key: Key) -> tuple[bool, Any]:
    """Whether a mapping or list has this key, and the value there."""
    if isinstance(data, Mapping):
        return key in data, data.get(key)
    if isinstance(data, list) and isinstance(key, int) and 0 <= key < len(data):
        return True, data[key]
    return False, None


def place(origins: Mapping[Path, str], path: Path, otherwise: str) -> str:
    """Where the value at `path`, or the nearest value around it, came from."""
    return next((origins[path[:n]] for n in range(len(path), -1, -1) if path[:n] in origins), otherwise)


def label(path: Path, data: Any) -> str:
    """`stages.sft.steps`: the key that an override would use. Items go by name or kind where unique."""
    words = []
    for key in path:
        word = str(key)
        if isinstance(data, list):
            names = item_names(data)
            if isinstance(key, int) and key < len(names) and names.count(names[key]) == 1:
                word = names[key] or word
        words.append(word)
        data = step_into(data, key)[1]
    return ".".join(words)


def item_names(items: list[Any]) -> list[str]:
    """The `name` of each item of a list, else its `kind`, else an empty string."""
    return [str(i.get("name") or i.get("kind") or "") if isinstance(i, Mapping) else "" for i in items]


def owners(model: type[BaseModel], data: Any, path: Path) -> list[type[BaseModel]]:
    """The settings models that the mapping at `path` of the data may be."""
    arms, inner = _walk(model, data, path)
    return [a for a in _fitting(arms, inner) if _is_model(a)]


def is_single_item(model: type[BaseModel], data: Any, path: Path) -> bool:
    """Whether the data has one bare item at `path` where the settings have a list of them."""
    arms, inner = _walk(model, data, path)
    return inner is not None and not isinstance(inner, list) and _stands_for_list(arms)


def describe(
    model: type[BaseModel], data: Any, origins: Mapping[Path, str], source: str, error: Mapping[str, Any]
) -> str:
    """One pydantic error as a sentence with its place and what was expected."""
    kind, loc, context = error["type"], tuple(error["loc"]), error.get("ctx", {})
    about_key = kind in ("missing", "extra_forbidden")
    path = _data_path(model, data, loc[:-1] if about_key else loc)
    where, inside = label(path, data), f" in {label(path, data)}" if path else ""
    if kind == "extra_forbidden":
        valid = [name for owner in owners(model, data, path) for name in owner.model_fields]
        at = place(origins, (*path, loc[-1]), source)
        return f"{at}: unknown key `{loc[-1]}`{inside}; {_nearest(str(loc[-1]), valid)}"
    if kind == "missing":
        return f"{place(origins, path, source)}: {label((*path, loc[-1]), data)}: Field required."
    if kind.startswith("union_tag"):
        key, tags = context["discriminator"].strip("'"), [m.strip(" '") for m in _tags(model, data, path)]
        if kind == "union_tag_not_found":
            return f"{place(origins, path, source)}: `{key}` is missing{inside}; one of {', '.join(tags)}."
        at = place(origins, (*path, key), source)
        return f"{at}: unknown {key} `{context['tag']}`{inside}; {_nearest(str(context['tag']), tags)}"
    message = str(error["msg"]).removeprefix("Value error, ").split(", unable to parse")[0].rstrip(".")
    message = message.replace("Input should be", "expected")
    given = error.get("input")
    if isinstance(given, str | int | float | bool) or given is None:
        message += f" (given: {given!r})"
    elif kind != "value_error":
        message += f" (given: a {'mapping' if isinstance(given, Mapping) else type(given).__name__})"
    return f"{place(origins, path, source)}: {where + ': ' if where else ''}{message}."


def _nearest(word: str, valid: list[str]) -> str:
    near = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f"did you mean `{near[0]}`?" if near else f"valid: {', '.join(dict.fromkeys(valid))}."


def _data_path(model: type[BaseModel], data: Any, loc: Path) -> Path:
    """Where in the data a pydantic location is.

    The location also names the tags of unions, and fields and indices that a validator made from a short
    form (`model: folder`, one mapping instead of a list); those are not in the data and are passed over.
    """
    path: list[Key] = []
    arms: list[Any] = [model]
    tag_seen = False
    for key in loc:
        models = [a for a in arms if _is_model(a)]
        if len(models) > 1 and not tag_seen and any(key in _kinds(m) for m in models):
            tag_seen = True
            continue
        found, inner = step_into(data, key)
        if found:
            arms = _children(_fitting(arms, data), key)
            path, data, tag_seen = [*path, key], inner, False
    return tuple(path)


def _walk(model: type[BaseModel], data: Any, path: Path) -> tuple[list[Any], Any]:
    """What the annotations allow at `path`, and the data there."""
    arms: list[Any] = [model]
    for key in path:
        arms = _children(_fitting(arms, data), key)
        data = step_into(data, key)[1]
    return arms, data


def _tags(model: type[BaseModel], data: Any, path: Path) -> list[str]:
    return [str(kind) for owner in owners(model, data, path) for kind in _kinds(owner)]


def _fitting(arms: list[Any], data: Any) -> list[Any]:
    """Of several models, the one that the data's `kind` names; of a list given as one item, its models."""
    if isinstance(data, list):
        return arms
    if _stands_for_list(arms):
        arms = [inner for a in arms for inner in _children([a], 0)]
    kind = data.get("kind") if isinstance(data, Mapping) else None
    return [a for a in arms if _is_model(a) and kind in _kinds(a)] or arms


def _stands_for_list(arms: list[Any]) -> bool:
    return any(get_origin(a) in (list, tuple) for a in arms) and not any(_is_model(a) for a in arms)


def _children(arms: list[Any], key: Key) -> list[Any]:
    """What the annotations allow below a key."""
    found: list[Any] = []
    for arm in arms:
        inner = get_args(arm)
        if _is_model(arm) and key in arm.model_fields:
            found += _arms(arm.model_fields[key].annotation)
        elif get_origin(arm) in (list, tuple) and inner and isinstance(key, int):
            found += _arms(inner[0])
        elif get_origin(arm) in (dict, Mapping) and len(inner) == 2:
            found += _arms(inner[1])
    return found


def _arms(annotation: Any) -> Iterator[Any]:
    """The alternatives of an annotation."""
    if get_origin(annotation) is Annotated:
        yield from _arms(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for arm in get_args(annotation):
            yield from _arms(arm)
    elif annotation is not type(None):
        yield annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    """The values that a model's `kind` may have."""
    field = model.model_fields.get("kind")
    if field is None:
        return ()
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else (field.default,)

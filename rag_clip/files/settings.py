"""Check values from a file against a pydantic model or a dataclass, and describe each problem in one sentence.

The sentence gives the key, what was found, and what to write; for an unknown key it suggests the nearest ones and lists
all. Messages continue a sentence that begins with the file's name, which the caller adds.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError

from rag_clip.words import did_you_mean

Kind = TypeVar("Kind")

_WANTED: Mapping[str, str] = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type", "dataclass_type"), "a table"),
    "string_type": "a text",
    "path_type": "a path",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "a text that matches {pattern}",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "too_short": "at least {min_length}",
    "union_tag_invalid": "{expected_tags} as its {discriminator}",
    "union_tag_not_found": "a table with its {discriminator}",
}


def check_settings(kind: type[Kind], values: object) -> Kind:
    """Build a pydantic model or a dataclass, `kind`, from a table of values.

    Raises ValueError if the values are not a table, for unknown or missing keys, and for wrong values.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"is {values!r}; write a table")
    if dataclasses.is_dataclass(kind):  # a pydantic model decides itself whether to accept unknown keys
        refuse_unknown(values, _fields(kind))
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        problems = error.errors()
        inner = [each for each in problems if not any(_is_above(each["loc"], other["loc"]) for other in problems)]
        raise ValueError("; also ".join(_describe(problem, kind, values) for problem in inner)) from None


def refuse_unknown(keys: Iterable[str], known: Iterable[str], *, what: str = "key") -> None:
    """Raise ValueError for the first unknown key; the message lists the known ones."""
    known = tuple(known)
    for key in keys:
        if key not in known:
            raise ValueError(_unknown(what, key, known))


def _unknown(what: str, key: str, known: Sequence[str], table: str = "") -> str:
    return f"unknown {what} {table + key!r}; {did_you_mean(key, known)}known are {', '.join(known)}"


def _describe(problem: Any, kind: type, values: Mapping[str, Any]) -> str:
    """Return a clause that describes a problem found by pydantic."""
    fault, found, context = problem["type"], problem["input"], problem.get("ctx", {})
    *way, last = problem["loc"] or ("",)
    if last == "[key]":  # pydantic's mark for a wrong key of a mapping; the part before it is the key
        *way, last = way
        fault, found = "extra_forbidden", last
    tables, models = _follow(kind, values, way)
    table = "".join(f"{part}." for part in tables)
    if fault == "value_error":  # the message is ours, from a model's own check
        return f"{table}{last}: {context['error']}" if problem["loc"] else str(context["error"])
    if fault == "extra_forbidden":
        expected = re.findall("'([^']*)'", context.get("expected", ""))
        return _unknown("key", str(last), expected or [name for model in models for name in _fields(model)], table)
    if fault in ("missing", "dataclass_exact_type"):
        needed = [name for model in models for name in _fields(model) if _is_needed(model, name)]
        return f"has no {table + str(last)!r}; needed are {', '.join(needed)}"
    key = table + str(last)
    if fault not in _WANTED:
        return f"{key} is {found!r}; {problem['msg']}"
    return f"{key} is {found!r}; give {_WANTED[fault].format_map(context)}"


def _is_above(way: Sequence[str | int], other: Sequence[str | int]) -> bool:
    return len(way) < len(other) and other[: len(way)] == way


def _follow(kind: type, values: Any, way: Sequence[str | int]) -> tuple[list[str | int], list[type]]:
    """Follow one of pydantic's paths: return its keys that occur in the values, and the models where it ends.

    Other parts of the path are tags, which pydantic inserts for the members of a union.
    """
    models, keys = [kind], []
    for part in way:
        inside = isinstance(values, Mapping) and part in values
        if not inside and not (isinstance(values, Sequence) and isinstance(part, int)):
            continue
        values = values[part]
        keys.append(part)
        below = [each for model in models if part in _fields(model) for each in _models(_fields(model)[part])]
        models = below or models
    return keys, models


def _models(annotation: Any) -> list[type]:
    """List the models and dataclasses in an annotation, such as the members of a union or the items of a tuple."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)):
        return [annotation]
    return [each for argument in get_args(annotation) for each in _models(argument)]


def _fields(kind: type) -> dict[str, Any]:
    """Return the annotation of each field by its name."""
    if issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}  # type: ignore[arg-type]


def _is_needed(kind: type, name: str) -> bool:
    if issubclass(kind, BaseModel):
        return kind.model_fields[name].is_required()
    field = kind.__dataclass_fields__[name]  # type: ignore[attr-defined]
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING

"""The roles of a file's columns: named by the user, or recognised by name and type."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, fields, replace

import pyarrow as pa

SHOWN_COLUMNS = 40
SHOWN_CHARACTERS = 60
RECOGNISED: dict[str, tuple[str, ...]] = {
    "text": (
        *("caption", "captions", "text", "txt", "alt_text", "alttext", "alt", "sentence", "sentences", "raw"),
        *("caption_reference_description", "caption_alt_text_description", "description", "title", "prompt"),
    ),
    "source": ("source", "dataset"),
    "url": ("url", "image_url", "img_url", "photo_image_url", "image_link", "coco_url", "flickr_url"),
    "image": ("image", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "bytes"),
    "width": ("original_width", "width", "image_width"),
    "height": ("original_height", "height", "image_height"),
    "language": ("language", "lang"),
}


@dataclass(frozen=True, slots=True)
class Columns:
    """The column for each role; None where there is none, or where it should be recognised.

    Dots select nested columns (`json.caption`). A CSV or TSV file without a header has column_1, column_2 ...
    """

    text: str | None = None
    source: str | None = None
    url: str | None = None
    image: str | None = None
    width: str | None = None
    height: str | None = None
    language: str | None = None


ROLES = tuple(field.name for field in fields(Columns))


def choose_columns(schema: pa.Schema, wanted: Columns, where: str) -> tuple[Columns, tuple[str, ...]]:
    """Complete the `wanted` columns by recognised ones; return them and the other candidates for the text.

    Case is ignored. Columns that are not nested come first, then the order of RECOGNISED decides. Raises ValueError,
    naming the file `where` and its columns, for a wanted column that is missing, of the wrong type or ambiguous, and
    where no column of captions is recognised.
    """
    kinds = dict(_leaves(schema))
    for role in ROLES:
        _check(role, getattr(wanted, role), kinds, schema, where)
    found = {role: _candidates(role, kinds) for role in ROLES}
    taken = {role: getattr(wanted, role) or next(iter(found[role]), None) for role in ROLES}
    columns = replace(wanted, **taken)
    if columns.text is None:
        raise ValueError(f"{where} has no column that looks like captions; name it, one of: {describe(schema)}")
    leaves = [name for name, _ in _leaves(schema)]
    for role, name in taken.items():
        if name and (leaves.count(name) > 1 or schema.names.count(split_path(schema.names, name)[0]) > 1):
            raise ValueError(f"{where} has two columns {name!r}; rename one, or name another column for {role}")
    return columns, tuple(name for name in found["text"] if name != columns.text)


def describe(schema: pa.Schema) -> str:
    """Return the columns of a file with their types as text, nested columns by their dotted names."""
    shown = [f"{_shortened(name)} ({kind})" for name, kind in _leaves(schema)]
    return ", ".join([*shown[:SHOWN_COLUMNS], *(["..."] if len(shown) > SHOWN_COLUMNS else [])]) or "none at all"


def _shortened(name: str) -> str:
    """Return a name as it is; quoted and cut if it is not a plausible name, such as the row of a damaged file."""
    return name if name.isprintable() and len(name) <= SHOWN_CHARACTERS else repr(name[:SHOWN_CHARACTERS])


def split_path(names: Container[str], column: str) -> list[str]:
    """Split a dotted name into steps; a column whose own name contains dots is one step."""
    return [column] if column in names else column.split(".")


def _check(role: str, column: str | None, kinds: dict[str, pa.DataType], schema: pa.Schema, where: str) -> None:
    if column is None:
        return
    if column not in kinds:
        raise ValueError(f"{where} has no column {column!r}; name the column of its {role}, one of: {describe(schema)}")
    if not (_plays(role, kinds[column]) or pa.types.is_null(kinds[column])):
        wanted = {"image": "bytes", "width": "numbers", "height": "numbers"}.get(role, "strings")
        raise ValueError(
            f"column {column!r} of {where} holds {kinds[column]}, not {wanted}; name a column of {wanted} for {role}"
        )


def _candidates(role: str, kinds: dict[str, pa.DataType]) -> list[str]:
    names = RECOGNISED[role]
    fitting = [name for name, kind in kinds.items() if _plays(role, kind)]
    known = [name for name in fitting if _last_step(name) in names]
    return sorted(known, key=lambda name: (name.count("."), names.index(_last_step(name))))


def _last_step(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _leaves(schema: pa.Schema) -> Iterator[tuple[str, pa.DataType]]:
    """Yield (dotted name, type) of all leaf columns; the type of a field inside a list is wrapped in a list."""
    for field in schema:
        yield from _below(field.name, field.type, listed=False)


def _below(name: str, kind: pa.DataType, *, listed: bool) -> Iterator[tuple[str, pa.DataType]]:
    inner = kind
    while is_list(inner):
        inner = inner.value_type
    if not pa.types.is_struct(inner):
        yield name, pa.list_(kind) if listed and not is_list(kind) else kind
        return
    for field in inner:
        yield from _below(f"{name}.{field.name}", field.type, listed=listed or is_list(kind))


def is_list(kind: pa.DataType) -> bool:
    """Return whether a column type is a list of any kind."""
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _plays(role: str, kind: pa.DataType) -> bool:
    if role == "text":
        while is_list(kind):
            kind = kind.value_type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    types = pa.types
    text = types.is_string(value) or types.is_large_string(value) or types.is_string_view(value)
    data = types.is_binary(value) or types.is_large_binary(value) or types.is_binary_view(value)
    number = types.is_integer(value) or types.is_floating(value) or types.is_decimal(value)
    return bool(
        {"image": data, "width": number or text, "height": number or text, "text": text or data}.get(role, text)
    )

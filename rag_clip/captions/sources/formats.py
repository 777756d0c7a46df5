"""Read text formats row by row: one caption per line, and JSON lines.

A row is a dictionary of its values, or a string: the reason why it cannot be read. Lines are limited to MAX_LINE_BYTES
in memory, and a bad row affects no other row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa

from rag_clip.captions.sources.columns import Columns

MAX_LINE_BYTES = 1 << 20
CHUNK_BYTES = 1 << 13
SNIFFED_ROWS = 100
OVERSIZED = "oversized"
MALFORMED = "malformed"

Row = dict[str, Any] | str


def read_lines(stream: BinaryIO, *, longest: int = MAX_LINE_BYTES) -> Iterator[bytes | None]:
    """Yield lines without line ends; None for a line of more than `longest` bytes, which is skipped.

    A UTF-8 byte order mark is removed. Raises ValueError for UTF-16, recognised by its byte order mark.
    """
    begun: list[bytes] = []  # the pieces of the current line; empty once it is too long
    size, first = 0, True
    while chunk := stream.read(CHUNK_BYTES):
        if first:
            chunk, first = without_mark(chunk), False
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            yield None if size + len(end) > longest else b"".join((*begun, end)).removesuffix(b"\r")
            begun, size = [], 0
        size += len(rest)
        if size > longest:
            begun = []
        elif rest:
            begun.append(rest)
    if size:
        yield None if size > longest else b"".join(begun).removesuffix(b"\r")


def without_mark(chunk: bytes) -> bytes:
    """Remove the UTF-8 byte order mark from the first bytes of a text; raises ValueError for that of UTF-16."""
    if chunk[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError("its text is UTF-16; convert it to UTF-8")
    return chunk.removeprefix(b"\xef\xbb\xbf")


def text_rows(stream: BinaryIO) -> Iterator[Row]:
    """Read one caption per line, as column `text`."""
    for line in read_lines(stream):
        yield OVERSIZED if line is None else {"text": line}


def json_rows(stream: BinaryIO) -> Iterator[Row]:
    """Read JSON lines; blank lines are skipped."""
    for line in read_lines(stream):
        if line is None:
            yield OVERSIZED
        elif line.strip():
            yield parse_json(line)


def parse_json(data: bytes) -> Row:
    """Parse one JSON object; MALFORMED for anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return MALFORMED
    return value if isinstance(value, dict) else MALFORMED


def row_schema(rows: Iterable[Row]) -> pa.Schema:
    """Return the columns of rows, each with the type of its first value that is not null."""
    types: dict[str, pa.DataType] = {}
    for row in rows:
        for name, value in row.items() if isinstance(row, dict) else ():
            if name not in types or pa.types.is_null(types[name]):
                types[name] = _type_of(value)
    return pa.schema(list(types.items()))


def rows_table(rows: Sequence[Row], columns: Columns) -> pa.Table:
    """Return columns `text` (bytes) and `error`, and those named in `columns`; each text of a list becomes a row."""
    assert columns.text is not None
    names = ("source", "url", "width", "height", "language")
    roles = {role: column for role in names if (column := getattr(columns, role))}
    taken: dict[str, list[Any]] = {name: [] for name in ("text", "error", *roles)}
    for row in rows:
        texts = [(None, row)] if isinstance(row, str) else list(_texts(_dig(row, columns.text)))
        for text, error in texts:
            taken["text"].append(text)
            taken["error"].append(error)
        for role, column in roles.items():
            value = None if isinstance(row, str) else _scalar(_dig(row, column))
            taken[role] += [value] * len(texts)
    kinds = {"text": pa.binary()}
    return pa.table({name: pa.array(values, kinds.get(name, pa.string())) for name, values in taken.items()})


def _texts(value: Any) -> Iterator[tuple[bytes | None, str | None]]:
    if isinstance(value, list):
        for item in value or [None]:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value.encode("utf-8", "surrogatepass"), None
    elif value is None or isinstance(value, bytes):
        yield value, None
    else:
        yield None, MALFORMED


def _dig(row: dict[str, Any], column: str) -> Any:
    if column in row:
        return row[column]
    value: Any = row
    for step in column.split("."):
        if isinstance(value, list):
            value = [item.get(step) for item in value if isinstance(item, dict)]
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value


def _scalar(value: Any) -> str | None:
    if isinstance(value, str) and value.isascii():
        return value
    return None if value is None or isinstance(value, list | dict) else str(value).encode("utf-8", "replace").decode()


def _type_of(value: Any) -> pa.DataType:
    try:
        return pa.scalar(value).type
    except (pa.ArrowException, OverflowError, ValueError):
        return pa.null()

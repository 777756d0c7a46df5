"""Convert the values of every format to one form: valid texts of bounded length, and integers."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rag_clip.captions.sources.formats import OVERSIZED

MAX_TEXT_BYTES = 1 << 16
BAD_ENCODING = "bad_encoding"


def checked_columns(table: pa.Table, *, source: str) -> pa.Table:
    """Return `text`, `error` and `source`, and `url`, `width`, `height`, `language` where the table has them.

    A text that is not UTF-8, or longer than MAX_TEXT_BYTES, becomes null, with the reason in `error`. Other invalid
    values become null; a missing source becomes `source`.
    """
    text, error = _valid_texts(table.column("text"))
    if "error" in table.column_names:
        error = pc.coalesce(table.column("error").combine_chunks(), error)
    columns = {"text": text, "error": error}
    if "source" in table.column_names:
        columns["source"] = _valid_texts(table.column("source"))[0].fill_null(source)
    else:
        columns["source"] = pa.repeat(pa.scalar(source), table.num_rows)
    for name in ("url", "language"):
        if name in table.column_names:
            columns[name] = _valid_texts(table.column(name))[0]
    for name in ("width", "height"):
        if name in table.column_names:
            columns[name] = _whole_numbers(table.column(name))
    return pa.table(columns)


def _valid_texts(column: pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    """Return the valid strings of a column of strings or bytes, null where invalid, and the reasons."""
    if pa.types.is_null(column.type):
        column = column.cast(pa.string())
    data = column.cast(pa.large_binary()).combine_chunks()
    oversized = pc.fill_null(pc.greater(pc.binary_length(data), MAX_TEXT_BYTES), False)
    data = pc.if_else(oversized, pa.scalar(None, pa.large_binary()), data)
    error = pc.if_else(oversized, pa.scalar(OVERSIZED), pa.scalar(None, pa.string()))
    try:
        return data.cast(pa.large_string()).cast(pa.string()), error
    except pa.ArrowInvalid:
        texts = [_decoded(value) for value in data.to_pylist()]
    bad = pc.and_(data.is_valid(), pa.array([text is None for text in texts], pa.bool_()))
    return pa.array(texts, pa.string()), pc.if_else(bad, pa.scalar(BAD_ENCODING), error)


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _whole_numbers(column: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_integer(column.type) and column.type.bit_width < 64:
        return column.cast(pa.int64()).combine_chunks()
    return pa.array([_whole_number(value) for value in column.to_pylist()], pa.int64())


def _whole_number(value: Any) -> int | None:
    try:
        number = int(float(value))
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 <= number < 1 << 31 else None

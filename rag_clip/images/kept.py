"""The columns that are copied from image files to predictions, with one type for all files and unchanged values."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial, reduce
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from rag_clip.images.common_types import any_type, common_type, replace_types, shared_notes
from rag_clip.images.int96 import with_far_timestamps
from rag_clip.images.rows import ImageFile, read_rows, spans

TRIED_ROWS = 8
SCANNED_ROWS = 1 << 16
# Each of these lists all columns, so readers that use it would refuse or hide the columns of predictions.
_LISTS_OF_COLUMNS = (
    b"org.apache.spark.sql.parquet.row.metadata",
    b"parquet.avro.schema",
    b"avro.schema",
    b"iceberg.schema",
)
_HUGGING_FACE = b"huggingface"
_ENUM = b"_PL_ENUM"  # polars' metadata of an enum, inside lists of which polars reads no other index type


def keep_columns(files: Sequence[ImageFile]) -> tuple[list[ImageFile], pa.Schema]:
    """Return the files, set up to read their columns, and the schema to write the columns of all files.

    The columns are those of the first file, nullable, with types that fit the values of all files. Dictionary indices
    get 32 bits, because categories that fit 8 bits in each row group may not in a whole file. Raises ValueError, naming
    the column, for one that cannot be read or written unchanged, and OSError for a damaged file.
    """
    files = with_far_timestamps(files)
    schema = _prepared(reduce(_joined, [file.schema for file in files]))
    for file in files:
        for field in file.schema:
            if any_type(field.type, _may_fail):
                _check(file, field, partial(_scan, file, field.name))
    for file in [file for file in files if file.rows][:1]:
        _try_columns(file, schema)
    return files, schema


def to_kept(table: pa.Table, schema: pa.Schema) -> list[pa.ChunkedArray]:
    """Return the columns of `schema`, cast to its types; raises pyarrow's exceptions if a value does not fit."""
    return [_cast(table[field.name], field.type) for field in schema]


def with_features(metadata: dict[bytes, bytes], schema: pa.Schema, added: Sequence[pa.Field]) -> dict[bytes, bytes]:
    """Return the metadata of a file with the columns `added`, without entries that would contradict them.

    Hugging Face's class names remain, and its types of the added columns are added.
    """
    kept = {key: value for key, value in metadata.items() if key not in (*_LISTS_OF_COLUMNS, _HUGGING_FACE)}
    try:
        document = json.loads(metadata[_HUGGING_FACE])
        features = document["info"]["features"]
        if set(features) == set(schema.names):
            features |= {field.name: _feature(field.type) for field in added}
            kept[_HUGGING_FACE] = json.dumps(document).encode()
    except (KeyError, TypeError, ValueError):
        pass
    return kept


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "Sequence"}
    return {"dtype": {"float": "float32"}.get(str(kind), str(kind)), "_type": "Value"}


def _prepared(schema: pa.Schema) -> pa.Schema:
    fields = [replace_types(field, _with_wide_index).with_nullable(True) for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def _with_wide_index(field: pa.Field) -> pa.DataType:
    kind, notes = field.type, field.metadata or {}
    if not _is_narrow(kind) or any(name.startswith(_ENUM) for name in notes):
        return kind
    return pa.dictionary(pa.int32(), kind.value_type, kind.ordered)


def _is_narrow(kind: pa.DataType) -> bool:
    return bool(types.is_dictionary(kind) and kind.index_type.bit_width < 32)


def _may_fail(kind: pa.DataType) -> bool:
    """Return whether later values of a type may be unreadable, before or after writing, although the first are not."""
    return _is_narrow(kind) or bool(types.is_fixed_size_list(kind) and kind.list_size == 0)


def _joined(first: pa.Schema, other: pa.Schema) -> pa.Schema:
    """Join the types of two files that agree, and keep the metadata that both have, such as categories and names."""
    fields = []
    for field in first:
        twin = other.field(field.name)
        fields.append(pa.field(field.name, common_type(field.type, twin.type), metadata=shared_notes(field, twin)))
    metadata, beside = first.metadata or {}, other.metadata or {}
    same = beside.get(_HUGGING_FACE) == metadata.get(_HUGGING_FACE)
    return pa.schema(fields, {key: value for key, value in metadata.items() if same or key != _HUGGING_FACE})


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type.equals(kind):
        return column
    if types.is_null(column.type):
        return pa.chunked_array([pa.nulls(len(column), kind)])
    if types.is_dictionary(column.type) and not types.is_dictionary(kind):
        column = pa.chunked_array([chunk.dictionary_decode() for chunk in column.chunks], column.type.value_type)
    return column.cast(kind)


def _check(file: ImageFile, field: pa.Field, attempt: Callable[[], None]) -> None:
    try:
        attempt()
    except (pa.ArrowException, OSError) as error:
        cause = error.__cause__ if isinstance(error, OSError) else error
        if not isinstance(cause, pa.ArrowException):
            raise
        reason = " ".join(str(cause).split())
        raise ValueError(
            f"column {field.name!r} of {file.path} is {field.type} and cannot be kept ({reason}); "
            "leave it out, or write it in another type"
        ) from error


def _scan(file: ImageFile, name: str) -> None:
    """Read a whole column, so that reading raises its errors now."""
    if any_type(file.schema.field(name).type, lambda kind: types.is_fixed_size_list(kind) and kind.list_size == 0):
        raise pa.ArrowInvalid("Parquet has no lists of fixed size 0")
    for _ in read_rows(file, _sizes(file.rows), columns=[name]):
        pass


def _sizes(rows: int) -> Iterator[int]:
    return (stop - start for start, stop in spans(0, rows, SCANNED_ROWS))


def _try_columns(file: ImageFile, schema: pa.Schema) -> None:
    """Write and read the first rows; if that fails, do it column by column, to name the one that cannot be kept."""
    try:
        _try(file, list(schema))
    except (pa.ArrowException, OSError):
        for field in schema:
            _check(file, field, partial(_try, file, [field]))
        raise


def _try(file: ImageFile, fields: Sequence[pa.Field]) -> None:
    names, schema, written = [field.name for field in fields], pa.schema(fields), io.BytesIO()
    table = next(read_rows(file, [min(file.rows, TRIED_ROWS)], columns=names))
    pq.write_table(pa.Table.from_arrays(to_kept(table, schema), schema=schema), written)
    pq.read_table(written)

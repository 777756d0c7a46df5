"""INT96 timestamps, as Spark, Hive and Impala write them: nanoseconds, of dates that may exceed 64 bits.

pyarrow reads them as 64-bit nanoseconds, which overflow: dates before 1677 and after 2262 turn into other dates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
from pyarrow import types

from rag_clip.files.parquet_batches import bounded_batches
from rag_clip.images.rows import MAX_READ_ROWS, READ_BYTES, ImageFile, opened, parquet_batches

NANOSECONDS_END = np.iinfo(np.int64).max // 1000  # microseconds from 1970


def with_far_timestamps(files: Sequence[ImageFile]) -> list[ImageFile]:
    """Return the files, with INT96 timestamps as microseconds if some do not fit into 64-bit nanoseconds.

    All INT96 columns of all files are read to find out. Raises ValueError, naming the columns, if one has such dates
    and another has fractions of a microsecond, because no type can represent both.
    """
    far, fine = "", ""
    for file in files:
        for column in _int96_columns(file):
            for nanoseconds, microseconds in _readings(file, column):
                if (abs(microseconds) > NANOSECONDS_END).any():
                    far = far or f"{column!r} of {file.path}"
                if (nanoseconds != microseconds * 1000).any():
                    fine = fine or f"{column!r} of {file.path}"
    if far and fine:
        raise ValueError(
            f"column {far} has INT96 timestamps before 1677 or after 2262, and column {fine} has fractions of a "
            "microsecond; no type can represent both, so leave one out or round it"
        )
    return [_in_microseconds(file) if _int96_columns(file) else file for file in files] if far else list(files)


def _int96_columns(file: ImageFile) -> list[str]:
    """Return the columns that contain INT96 values, at any depth."""
    if file.batches is not parquet_batches:
        return []
    with opened(file.path) as parquet:
        leaves = [parquet.schema.column(place) for place in range(len(parquet.schema))]
    paths = [leaf.path for leaf in leaves if leaf.physical_type == "INT96"]
    return [name for name in file.schema.names if any(f"{path}.".startswith(f"{name}.") for path in paths)]


def _readings(file: ImageFile, column: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the INT96 values of a column as nanoseconds modulo 2^64 and as microseconds, both int64."""
    with opened(file.path) as fine, opened(file.path, int96="us") as coarse:
        readings = (
            bounded_batches(each, range(each.num_row_groups), [column], most_rows=MAX_READ_ROWS, most_bytes=READ_BYTES)
            for each in (fine, coarse)
        )
        for batches in zip(*readings, strict=True):
            in_ns, in_us = (list(_timestamps(batch.column(column))) for batch in batches)
            for nanoseconds, microseconds in zip(in_ns, in_us, strict=True):
                if nanoseconds.type != microseconds.type:  # equal types are of other timestamps than INT96
                    yield nanoseconds.cast(pa.int64()).to_numpy(), microseconds.cast(pa.int64()).to_numpy()


def _timestamps(column: pa.Array) -> Iterator[pa.Array]:
    """Yield the timestamps in a column, at any depth, without nulls."""
    kind = column.type
    if types.is_timestamp(kind):
        yield column.drop_null()
    elif types.is_map(kind):
        yield from _timestamps(column.keys)
        yield from _timestamps(column.items)
    elif types.is_struct(kind):
        for child in column.flatten():
            yield from _timestamps(child)
    elif kind.num_fields:
        yield from _timestamps(column.flatten())


def _in_microseconds(file: ImageFile) -> ImageFile:
    with opened(file.path, int96="us") as parquet:
        read = parquet.schema_arrow
    fields = [read.field(field.name) if field.name in read.names else field for field in file.schema]
    schema = pa.schema(fields, metadata=file.schema.metadata)
    return replace(file, schema=schema, batches=partial(parquet_batches, int96="us"))

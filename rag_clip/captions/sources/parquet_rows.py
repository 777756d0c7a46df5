"""Read caption columns from Parquet with row groups of any size, in bounded memory.

Bytes are read through a buffer of 1 MiB instead of whole column chunks, and large texts come in small batches.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rag_clip.captions.sources.columns import Columns, is_list, split_path
from rag_clip.captions.sources.files import open_file, open_unpacked
from rag_clip.files.parquet_batches import STREAM_BUFFER, bounded_batches, open_pages

DECODED_BYTES = 32 << 20


@contextmanager
def open_parquet(url: str, compression: str | None) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file for streaming; a compressed one is first decompressed to a temporary file.

    Raises OSError or pyarrow's exceptions for a file that is not Parquet.
    """
    with ExitStack() as stack:
        if compression:
            packed = stack.enter_context(open_unpacked(url, compression))
            file: BinaryIO = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(packed, file, STREAM_BUFFER)
        else:
            file = stack.enter_context(open_file(url))
        with open_pages(pa.PythonFile(file, "r")) as opened:
            yield opened


def in_lists(schema: pa.Schema, column: str) -> bool:
    """Return whether the values of a column are in lists, so that a row may have several or none."""
    return _until_list(schema, split_path(schema.names, column))[1]


def row_groups_from(file: pq.ParquetFile, columns: Columns, start: int) -> tuple[list[int], int]:
    """Return the row groups needed from row `start` on, and the first row of these."""
    groups, first = list(range(file.num_row_groups)), 0
    if not in_lists(file.schema_arrow, columns.text or ""):
        while len(groups) > 1 and first + file.metadata.row_group(groups[0]).num_rows <= start:
            first += file.metadata.row_group(groups.pop(0)).num_rows
    return groups, first


def parquet_tables(
    file: pq.ParquetFile, columns: Columns, groups: Sequence[int], batch_rows: int
) -> Iterator[pa.Table]:
    """Yield the columns of the row groups, named by role; each caption of a list becomes a row.

    Raises OSError or pyarrow's exceptions where the file is damaged.
    """
    paths = _role_paths(file.schema_arrow, columns)
    read = sorted({".".join(_until_list(file.schema_arrow, steps)[0]) for steps in paths.values()})
    for batch in bounded_batches(file, groups, read, most_rows=batch_rows, most_bytes=DECODED_BYTES, use_threads=False):
        yield _by_role(batch, paths)


def frame_tables(frame: pa.Table, columns: Columns, batch_rows: int) -> Iterator[pa.Table]:
    """Yield the columns of a table in memory as `parquet_tables` does."""
    paths = _role_paths(frame.schema, columns)
    for batch in frame.select(sorted({steps[0] for steps in paths.values()})).to_batches(max_chunksize=batch_rows):
        yield _by_role(batch, paths)


def _role_paths(schema: pa.Schema, columns: Columns) -> dict[str, list[str]]:
    roles = ("text", "source", "url", "width", "height", "language")
    return {role: split_path(schema.names, name) for role in roles if (name := getattr(columns, role))}


def _until_list(schema: pa.Schema, steps: list[str]) -> tuple[list[str], bool]:
    """Return the steps up to the first list on a path, and whether there is one; Parquet selects only up to there."""
    kind = schema.field(steps[0]).type
    for place, step in enumerate(steps[1:], 1):
        if is_list(kind):
            return steps[:place], True
        kind = kind.field(step).type
    return steps, is_list(kind)


def _by_role(batch: pa.RecordBatch, paths: dict[str, list[str]]) -> pa.Table:
    text, rows = _dig(batch, paths["text"])
    columns = {"text": text}
    for role in paths.keys() - {"text"}:
        values, _ = _dig(batch, paths[role])
        columns[role] = values.take(rows)
    return pa.table(columns)


def _with_nulls(lists: pa.Array) -> pa.Array:
    """Replace empty and null lists by lists of one null, so that their rows count as rows without text."""
    lists = lists.cast(pa.large_list(lists.type.value_type))
    empty = pc.equal(pc.coalesce(pc.list_value_length(lists), 0), 0)
    return pc.if_else(empty, pa.scalar([None], lists.type), lists) if pc.any(empty).as_py() else lists


def _dig(batch: pa.RecordBatch, steps: list[str]) -> tuple[pa.Array, pa.Array]:
    """Return the values at a path, with lists flattened, and the batch row that each value comes from."""
    values, rows = batch.column(steps[0]), pa.array(range(batch.num_rows), pa.int64())
    for step in [*steps[1:], None]:
        while is_list(values.type):
            values = _with_nulls(values)
            rows = rows.take(pc.list_parent_indices(values))
            values = pc.list_flatten(values)
        if step is not None:
            values = pc.struct_field(values, [step])
    return (values.dictionary_decode() if pa.types.is_dictionary(values.type) else values), rows

"""Read the columns of captions from Parquet of any row-group size, in bounded memory.

Bytes are read through a buffer of 1 MiB, not column by column, and large texts come in small batches.
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
    """Open a Parquet file for streaming; a compressed one is unpacked to a temporary file first.

    Raises OSError or pyarrow's exceptions for what is no Parquet file.
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
    """Tell whether the values of a column lie in lists, so that a row may give many or none."""
    return _until_list(schema, split_path(schema.names, column))[1]


def row_groups_from(file: pq.ParquetFile, columns: Columns, start: int) -> tuple[list[int], int]:
    """Choose the row groups needed from row `start` on, and the row that the first of them begins with."""
    groups, first = list(range(file.num_row_groups)), 0
    if not in_lists(file.schema_arrow, columns.text or ""):
        while len(groups) > 1 and first + file.metadata.row_group(groups[0]).num_rows <= start:
            first += file.metadata.row_group(groups.pop(0)).num_rows
    return groups, first


def parquet_tables(
    file: pq.ParquetFile, columns: Columns, groups: Sequence[int], batch_rows: int
) -> Iterator[pa.Table]:
    """Yield the columns of the row groups, under the names of their roles; captions in lists become a row each.

    Raises OSError or pyarrow's exceptions where the file is damaged.
    """
    roles = ("text", "source", "url", "width", "height", "language")
    paths = {role: split_path(file.schema_arrow.names, name) for role in roles if (name := getattr(columns, role))}
    read = sorted({".".join(_until_list(file.schema_arrow, steps)[0]) for steps in paths.values()})
    for batch in bounded_batches(file, groups, read, most_rows=batch_rows, most_bytes=DECODED_BYTES, use_threads=False):
        yield _by_role(batch, paths)


def _until_list(schema: pa.Schema, steps: list[str]) -> tuple[list[str], bool]:
    """Return the steps up to the first list on a path, and whether there is one: Parquet reads no further by name."""
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
    """Return lists of one null in the place of empty and null ones, so that their rows count as rows without text."""
    lists = lists.cast(pa.large_list(lists.type.value_type))
    empty = pc.equal(pc.coalesce(pc.list_value_length(lists), 0), 0)
    return pc.if_else(empty, pa.scalar([None], lists.type), lists) if pc.any(empty).as_py() else lists


def _dig(batch: pa.RecordBatch, steps: list[str]) -> tuple[pa.Array, pa.Array]:
    """Return the values at a path, those in lists one by one, and the row of the batch that each comes from."""
    values, rows = batch.column(steps[0]), pa.array(range(batch.num_rows), pa.int64())
    for step in [*steps[1:], None]:
        while is_list(values.type):
            values = _with_nulls(values)
            rows = rows.take(pc.list_parent_indices(values))
            values = pc.list_flatten(values)
        if step is not None:
            values = pc.struct_field(values, [step])
    return (values.dictionary_decode() if pa.types.is_dictionary(values.type) else values), rows

"""Read Parquet in batches of bounded memory, verifying the checksums of pages.

The sizes recorded in a file are no bound: dictionary and run-length encoding store a value once for many rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

STREAM_BUFFER = 1 << 20
GROWTH = 4


def open_pages(source: object, *, int96: str = "ns") -> pq.ParquetFile:
    """Open a file to be read page by page; pyarrow's defaults would read whole column chunks ahead.

    `int96` is the unit in which INT96 timestamps are read. Raises OSError or pyarrow's exceptions if the file is not
    Parquet; reading a page with a wrong checksum raises OSError.
    """
    return pq.ParquetFile(
        source,
        pre_buffer=False,
        buffer_size=STREAM_BUFFER,
        page_checksum_verification=True,
        coerce_int96_timestamp_unit=int96,
    )


def bounded_batches(
    file: pq.ParquetFile,
    groups: Sequence[int],
    columns: Sequence[str],
    *,
    most_rows: int,
    most_bytes: int,
    use_threads: bool = True,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of some row groups in batches of bounded size.

    file: an open file, see `open_pages`.
    groups, columns: the row groups to read, and their columns.
    most_rows: the largest number of rows of a batch.
    most_bytes: about the largest size of a batch in memory, unpacked.
    use_threads: decode the columns of a batch in parallel.

    The first batch has one row. Each later one has up to `GROWTH` times the rows of the one before, but no more than
    fit in `most_bytes` if its rows are as large as those before. No batch spans two row groups, because a dictionary
    inside a list or struct could not be read across them. Raises OSError or pyarrow's exceptions if the file is
    damaged.
    """
    rows = 1
    for group in groups:
        for batch in file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=use_threads):
            yield batch
            affordable = most_bytes * batch.num_rows // max(1, unpacked_bytes(batch))
            rows = max(1, min(most_rows, GROWTH * rows, affordable))
            file.reader.set_batch_size(rows)  # takes effect from the next batch of the current row group


def unpacked_bytes(batch: pa.RecordBatch) -> int:
    """Return the bytes of a batch, where each row of a dictionary column counts as the mean size of its values."""
    return sum(map(_column_bytes, batch.columns))


def _column_bytes(column: pa.Array) -> int:
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    values = column.dictionary
    return int(column.indices.nbytes + len(column) * values.nbytes // max(1, len(values)))

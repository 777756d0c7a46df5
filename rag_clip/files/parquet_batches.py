"""Read Parquet in batches bounded by what their rows unpack to, with the checksums of pages verified.

The sizes in a file say nothing of that: a dictionary or a run stores a value once, however many rows hold it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

STREAM_BUFFER = 1 << 20
GROWTH = 4


def open_pages(source: object, *, int96: str = "ns") -> pq.ParquetFile:
    """Open a file to read page after page, where pyarrow's defaults read whole column chunks ahead.

    A page with a checksum that does not fit is an OSError where it is read. `int96` is the unit in which such
    timestamps are read. Raises OSError or pyarrow's exceptions for
    what is not Parquet.
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
    """Yield the rows of row groups in batches of at most `most_rows`, and about `most_bytes` once unpacked.

    The first batch is one row, and each has up to `GROWTH` times the rows of the one before, as many as would hold
    `most_bytes` if they were as large as that one's. No batch spans two row groups: a dictionary inside a list or
    struct could not be read across them. Raises OSError or pyarrow's exceptions where the file is damaged.
    """
    rows = 1
    for group in groups:
        for batch in file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=use_threads):
            yield batch
            affordable = most_bytes * batch.num_rows // max(1, unpacked_bytes(batch))
            rows = max(1, min(most_rows, GROWTH * rows, affordable))
            file.reader.set_batch_size(rows)  # holds from the next batch of a row group that is under way


def unpacked_bytes(batch: pa.RecordBatch) -> int:
    """Return the bytes of a batch; a dictionary's values count for each row that holds one, as they would unpacked."""
    return sum(map(_column_bytes, batch.columns))


def _column_bytes(column: pa.Array) -> int:
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    values = column.dictionary
    return int(column.indices.nbytes + len(column) * values.nbytes // max(1, len(values)))

"""Read Parquet files of captions in small batches, as columns `text` and `source`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

STREAM_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class CaptionFile:
    """A Parquet file with a column of captions; `source_column` is empty where the file's name is the source."""

    path: Path
    rows: int
    text_column: str
    source_column: str

    def read(self, batch_rows: int) -> Iterator[pa.Table]:
        """Yield tables of up to `batch_rows` rows with the columns `text` and `source`, both strings.

        Raises OSError where the file is damaged.
        """
        columns = [self.text_column, *([self.source_column] if self.source_column else [])]
        try:
            with pq.ParquetFile(self.path, pre_buffer=False, buffer_size=STREAM_BUFFER) as file:
                for batch in file.iter_batches(batch_rows, columns=columns):
                    yield self._rename(batch)
        except (pa.ArrowException, OSError) as error:
            raise OSError(f"{self.path} is damaged or cannot be read: {error}") from error

    def _rename(self, batch: pa.RecordBatch) -> pa.Table:
        text = batch.column(self.text_column).cast(pa.string())
        if self.source_column:
            source = batch.column(self.source_column).cast(pa.string()).fill_null(self.path.stem)
        else:
            source = pa.repeat(pa.scalar(self.path.stem), batch.num_rows)
        return pa.table({"text": text, "source": source})


def open_caption_files(
    paths: Sequence[str | Path], *, text_column: str, source_column: str | None
) -> list[CaptionFile]:
    """Find the Parquet files (folders are searched) and check the columns of all before anything is read.

    A file without `source_column` is its own source, under its name. Raises FileNotFoundError for a missing file and
    ValueError for everything else that is wrong with the files, naming them and the columns found.
    """
    found = [file for path in paths for file in _find(Path(path))]
    if not found:
        raise ValueError("no caption files were given; give at least one Parquet file")
    return [_open(path, text_column, source_column) for path in found]


def _find(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if not path.is_dir():
        return [path]
    inside = sorted(path.rglob("*.parquet"))
    if not inside:
        raise ValueError(f"the folder {path} holds no .parquet file")
    return inside


def _open(path: Path, text_column: str, source_column: str | None) -> CaptionFile:
    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except pa.ArrowException as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from None
    if text_column not in schema.names:
        columns = ", ".join(schema.names)
        raise ValueError(f"{path} has no column {text_column!r}; name the column of captions, one of: {columns}")
    has_source = source_column is not None and source_column in schema.names
    chosen = source_column if has_source and source_column is not None else ""
    for column in (text_column, *([chosen] if chosen else [])):
        if not _is_text(schema.field(column).type):
            kind = schema.field(column).type
            raise ValueError(f"column {column!r} of {path} holds {kind}, not strings; name a column of strings")
    return CaptionFile(path, rows, text_column, chosen)


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value))

"""One reader for every corpus: files, folders, globs, URLs and tables in, record batches of captions out.

An unusable caption remains a row, with a null text and the reason in column `error`, so that row numbers stay valid.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from rag_clip.captions.sources.columns import Columns, choose_columns
from rag_clip.captions.sources.csv_rows import csv_rows, csv_schema, tsv_rows
from rag_clip.captions.sources.files import FoundFile, SourceError, find_files, open_unpacked
from rag_clip.captions.sources.formats import SNIFFED_ROWS, Row, json_rows, row_schema, rows_table, text_rows
from rag_clip.captions.sources.json_documents import document_rows, find_json_kind
from rag_clip.captions.sources.names import corpus_name
from rag_clip.captions.sources.parquet_rows import frame_tables, in_lists, open_parquet, parquet_tables, row_groups_from
from rag_clip.captions.sources.tar_rows import tar_rows
from rag_clip.captions.sources.txt_kinds import find_txt_kind
from rag_clip.captions.sources.values import checked_columns
from rag_clip.data import Kept
from rag_clip.display import counted
from rag_clip.files.identity import digest_table
from rag_clip.files.locations import shown, without_secrets

__all__ = ["Columns", "SourceError", "SourceFile", "find_sources", "read_source", "unreadable"]

BATCH_ROWS = 4096
ROWS_GATHERED = 256
FRAME = "frame"
DAMAGE = (OSError, EOFError, ValueError, RecursionError, tarfile.TarError, pa.ArrowException)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of captions with known columns.

    url: may contain secrets; print and record `address` instead.
    format, compression: of the file.
    size: in bytes.
    identity: changes when the file changes.
    columns: the column of each role.
    rows: number of rows; None if it is known only after reading.
    candidates: other columns that could be the text, the likeliest first.
    frame: the table, for captions in memory: its `format` is "frame", and its `url` is made from its content.
    """

    url: str
    format: str
    compression: str | None
    size: int
    identity: str
    columns: Columns
    rows: int | None
    candidates: tuple[str, ...] = ()
    frame: pa.Table | None = field(default=None, compare=False, repr=False)

    @property
    def address(self) -> str:
        """The URL without secrets, for printing and recording."""
        return shown(self.url)

    @property
    def name(self) -> str:
        """The source of its rows, if it has no column for that."""
        return corpus_name(self.address) if self.frame is None else FRAME


def find_sources(
    paths: Sequence[str | Path | pa.Table],
    *,
    columns: Columns = Columns(),  # noqa: B008
) -> list[SourceFile]:
    """Return the caption files behind files, folders, globs, fsspec URLs and tables in memory, with their columns.

    The order is that of the paths, sorted by name inside a folder or glob; repeated files count once. Columns that are
    not named are recognised by name and type; the text must be the same column in all files of a folder or glob.

    Raises FileNotFoundError for a missing file, SourceError for an unreadable one, and ValueError, naming files and
    columns, for all other problems.
    """
    found: dict[str, SourceFile] = {}
    for path in paths:
        if isinstance(path, pa.Table):
            group = [_inspect_frame(path, columns)]
        else:
            group = [_inspect(file, columns) for file in find_files(path)]
        _check_agreement(group)
        found |= {source.url: source for source in group if source.url not in found}
    if not found:
        raise ValueError("no files of captions were given; give at least one file, folder, glob or URL")
    return list(found.values())


def read_source(source: SourceFile, *, batch_rows: int = BATCH_ROWS, start: int = 0) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file from row `start` on, in batches of `batch_rows`, in bounded memory.

    Columns: `row` (int64, index in the file; each caption of a list is a row), `text` and `error` (string or null),
    `source`, and `url`, `width`, `height`, `language` where the file has them. `error` is the reason why a row has no
    text: `bad_encoding`, `oversized`, `malformed`, `unsafe_name`, `dotted_name`.

    Raises SourceError, naming file and row, where the file is damaged, after yielding all rows before the damage.
    """
    row, waiting, damage = start, pa.table({}), None
    try:
        for table in _tables(source, batch_rows, start):
            waiting = pa.concat_tables([waiting, table]) if len(waiting) else table
            while len(waiting) >= batch_rows:
                yield _numbered(waiting.slice(0, batch_rows), row)
                row, waiting = row + batch_rows, waiting.slice(batch_rows)
    except DAMAGE as error:
        damage = error
    if len(waiting):
        yield _numbered(waiting, row)
    if damage is not None:
        place = row + len(waiting)
        reason = without_secrets(str(damage))
        raise SourceError(f"{source.address} is damaged or cannot be read from row {place} on: {reason}") from None


def unreadable(records: pa.Table) -> Kept:
    """Drop the rows with an `error`, which becomes the reason; the first step of every chain."""
    error = records.column("error")
    dropped = records.filter(error.is_valid())
    return Kept(records.filter(error.is_null()), dropped, tuple(dropped.column("error").to_pylist()))


def _inspect_frame(frame: pa.Table, wanted: Columns) -> SourceFile:
    columns, candidates = choose_columns(frame.schema, wanted, "the frame")
    identity = digest_table(frame)[:16]
    rows = None if in_lists(frame.schema, columns.text or "") else len(frame)
    return SourceFile(f"{FRAME}-{identity}", FRAME, None, frame.nbytes, identity, columns, rows, candidates, frame)


def _inspect(file: FoundFile, wanted: Columns) -> SourceFile:
    try:
        if file.format in ("txt", "json"):
            with open_unpacked(file.url, file.compression) as stream:
                file = replace(file, format=(find_txt_kind if file.format == "txt" else find_json_kind)(stream))
        schema, wanted, rows = _look_into(file, wanted)
    except DAMAGE as error:
        reason = without_secrets(str(error))
        raise SourceError(f"{file.address} is not a readable {file.format} file: {reason}") from None
    columns, candidates = choose_columns(schema, wanted, file.address)
    if in_lists(schema, columns.text or ""):
        rows = None
    return SourceFile(file.url, file.format, file.compression, file.size, file.identity, columns, rows, candidates)


def _look_into(file: FoundFile, wanted: Columns) -> tuple[pa.Schema, Columns, int | None]:
    """Return the columns of a file, the wanted columns, and the number of rows if the file states it."""
    if file.format == "parquet":
        with open_parquet(file.url, file.compression) as opened:
            return opened.schema_arrow, wanted, opened.metadata.num_rows
    if file.format == "json":
        return _row_schema(_document(file)), wanted, None
    with open_unpacked(file.url, file.compression) as stream:
        if file.format in ("csv", "tsv"):
            return *csv_schema(stream, wanted, tabs=file.format == "tsv"), None
        if file.format == "txt":
            return row_schema(_first_rows(text_rows(stream))), Columns(text="text"), None
        return _row_schema((tar_rows if file.format == "tar" else json_rows)(stream)), wanted, None


def _row_schema(rows: Iterator[Row]) -> pa.Schema:
    first = _first_rows(rows)
    if first and all(isinstance(row, str) for row in first):
        raise ValueError(f"none of its first {counted(len(first), 'row')} can be read, the first being {first[0]}")
    return row_schema(first)


def _first_rows(rows: Iterator[Row]) -> list[Row]:
    """Return the first rows, to infer columns from; damage raises only if no row comes before it."""
    taken: list[Row] = []
    try:
        taken.extend(islice(rows, SNIFFED_ROWS))
    except DAMAGE:
        if not taken:
            raise
    return taken


def _check_agreement(group: Sequence[SourceFile]) -> None:
    first: dict[str, SourceFile] = {}
    for source in group:
        other = first.setdefault(source.format, source)
        if source.columns.text != other.columns.text:
            raise ValueError(
                f"the captions of {source.address} are in column {source.columns.text!r}, those of {other.address} in "
                f"{other.columns.text!r}; name the column that both have, or give the files one by one"
            )


def _tables(source: SourceFile, batch_rows: int, start: int) -> Iterator[pa.Table]:
    """Yield the checked rows from `start` on, without row numbers, in tables of any size."""
    if source.frame is not None:
        yield from _from(start, frame_tables(source.frame, source.columns, batch_rows), source)
    elif source.format == "parquet":
        with open_parquet(source.url, source.compression) as file:
            groups, first = row_groups_from(file, source.columns, start)
            yield from _from(start - first, parquet_tables(file, source.columns, groups, batch_rows), source)
    elif source.format == "json":
        yield from _from(start, _row_tables(_document(source), source.columns), source)
    else:
        with open_unpacked(source.url, source.compression) as stream:
            yield from _from(start, _row_tables(_rows(source, stream), source.columns), source)


def _from(start: int, tables: Iterator[pa.Table], source: SourceFile) -> Iterator[pa.Table]:
    for table in tables:
        if len(table) > start:
            yield checked_columns(table.slice(start), source=source.name)
        start = max(0, start - len(table))


def _document(file: FoundFile | SourceFile) -> Iterator[Row]:
    return document_rows(partial(open_unpacked, file.url, file.compression))


def _rows(source: SourceFile, stream: BinaryIO) -> Iterator[Row]:
    match source.format:
        case "csv":
            return csv_rows(stream, source.columns)
        case "tsv":
            return tsv_rows(stream, source.columns)
        case "jsonl":
            return json_rows(stream)
        case "tar":
            return tar_rows(stream)
        case _:
            return text_rows(stream)


def _row_tables(rows: Iterator[Row], columns: Columns) -> Iterator[pa.Table]:
    """Yield tables of rows; rows before damage are yielded before its error is raised."""
    gathered: list[Row] = []
    try:
        for row in rows:
            gathered.append(row)
            if len(gathered) == ROWS_GATHERED:
                yield rows_table(gathered, columns)
                gathered = []
    except DAMAGE:
        yield rows_table(gathered, columns)
        raise
    yield rows_table(gathered, columns)


def _numbered(table: pa.Table, first: int) -> pa.RecordBatch:
    numbers = pa.array(range(first, first + len(table)), pa.int64())
    return table.add_column(0, "row", numbers).combine_chunks().to_batches()[0]

"""Read CSV and TSV row by row, with or without a header; a bad row costs no other row."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import BinaryIO

import pyarrow as pa

from .columns import RECOGNISED, Columns
from .formats import MALFORMED, OVERSIZED, Row, read_lines


def csv_rows(stream: BinaryIO, columns: Columns) -> Iterator[Row]:
    """Read CSV, quoted line breaks included; the delimiter is the commonest of , ; | and tab in the first line.

    Without a header (no cell of the first row is the column of captions) the columns are column_1, column_2 ...
    """
    return _named(_csv_cells(read_lines(stream)), columns)


def tsv_rows(stream: BinaryIO, columns: Columns) -> Iterator[Row]:
    """Read TSV: a line is a row whatever it holds, and quotes around a whole cell are taken off."""
    return _named(_tsv_cells(read_lines(stream)), columns)


def csv_schema(stream: BinaryIO, wanted: Columns, *, tabs: bool) -> tuple[pa.Schema, Columns]:
    """Read the columns off the first row; a row with a URL in it is no header.

    Returns the schema, and `wanted` completed by what the first row of a file without a header tells.
    """
    lines = read_lines(stream)
    cells = next((cells for cells in (_tsv_cells if tabs else _csv_cells)(lines) if isinstance(cells, list)), [])
    cells = [_visible(cell) for cell in cells]
    known = {name for names in RECOGNISED.values() for name in names}
    addresses = [
        name for name, cell in zip(_numbered(cells), cells, strict=True) if cell.startswith(("http://", "https://"))
    ]
    names = _numbered(cells)
    if wanted.text in cells or known & set(map(str.lower, cells)) or not (addresses or wanted.text in names):
        return pa.schema([(name, pa.string()) for name in cells]), wanted
    others = [name for name in names if name not in addresses]
    text = wanted.text or (others[0] if len(others) == 1 else None)
    url = wanted.url or next(iter(addresses), None)
    return pa.schema([(name, pa.string()) for name in names]), replace(wanted, text=text, url=url)


def _named(cells: Iterator[list[str] | str], columns: Columns) -> Iterator[Row]:
    first = next((row for row in cells if isinstance(row, list)), None)
    if first is None:
        return
    visible = [_visible(cell) for cell in first]
    header = columns.text in visible
    names = visible if header else _numbered(first)
    if not header:
        yield dict(zip(names, first, strict=True))
    for row in cells:
        if isinstance(row, str) or len(row) != len(names):
            yield row if isinstance(row, str) else MALFORMED
        else:
            yield dict(zip(names, row, strict=True))


def _numbered(cells: Sequence[str]) -> list[str]:
    return [f"column_{place}" for place in range(1, len(cells) + 1)]


def _visible(cell: str) -> str:
    return cell.encode("utf-8", "surrogateescape").decode("utf-8", "replace").strip()


def _tsv_cells(lines: Iterator[bytes | None]) -> Iterator[list[str] | str]:
    for line in lines:
        if line is None:
            yield OVERSIZED
        elif line:
            yield [_unquoted(cell) for cell in line.decode("utf-8", "surrogateescape").split("\t")]


def _unquoted(cell: str) -> str:
    quoted = len(cell) > 1 and cell[0] == cell[-1] == '"'
    return cell[1:-1].replace('""', '"') if quoted else cell


class _OversizedLineError(Exception):
    pass


class _Feed:
    """Hands lines to the csv module, remembers those of the current row, and can hand them out again."""

    def __init__(self, lines: Iterator[bytes | None]) -> None:
        self._lines = lines
        self._again: deque[bytes | None] = deque()
        self.taken: list[bytes | None] = []

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.taken.append(line)
        if line is None:
            raise _OversizedLineError
        return line.decode("utf-8", "surrogateescape") + "\n"

    def repeat_all_but_the_first(self) -> None:
        self._again.extendleft(reversed(self.taken[1:]))


def _csv_cells(lines: Iterator[bytes | None]) -> Iterator[list[str] | str]:
    """Parse rows; one that is bad costs its first line only, however far an open quote reached."""
    first = next(lines, b"")
    feed, width = _Feed(chain([first], lines)), 0
    reader = csv.reader(feed, delimiter=_delimiter(first or b""))
    while True:
        feed.taken.clear()
        try:
            row = next(reader)
        except StopIteration:
            return
        except (_OversizedLineError, csv.Error):
            row = None
        if row is not None and len(row) in (0, width or len(row)):
            width = width or len(row)
            yield from [row] if row else []
        else:
            yield OVERSIZED if row is None and len(feed.taken) == 1 else MALFORMED
            feed.repeat_all_but_the_first()


def _delimiter(line: bytes) -> str:
    return max(",;|\t", key=lambda delimiter: line.count(delimiter.encode()))

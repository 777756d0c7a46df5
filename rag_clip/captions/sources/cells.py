"""Split CSV and TSV into rows of cells, with quotes, line breaks inside quotes, and backslash escapes.

A row is a list of cells, or the reason why it cannot be read. A line that may be only half a row is never accepted as a
whole one.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice

from rag_clip.captions.sources.formats import MALFORMED, MAX_LINE_BYTES, OVERSIZED
from rag_clip.captions.sources.names import PLACE

Cells = list[str] | str

DELIMITERS = ",;|\t"
SAMPLED_LINES = 32
_SEPARATOR = re.compile(rb'"?sep=([,;|\t])"?', re.IGNORECASE)  # a first line that Excel writes
_QUOTED = re.compile(r'"((?:""|\\.|[^"\\]|"(?!["\t]|\Z))*)"(?=\t|\Z)', re.DOTALL)
_BARE = re.compile(r"(?:\\.|[^\t\n\\])*\\?", re.DOTALL)
_QUOTES = re.compile(r'(?<!\\)"')


def csv_cells(lines: Iterator[bytes | None]) -> Iterator[Cells]:
    """Yield the rows of CSV; a bad row loses only its first line, however far an open quote reached.

    The delimiter is the one of , ; | and tab that splits the most of the first lines into equally many cells, or that
    of a line `sep=;`. Quotes inside quotes are doubled; if that gives no whole row, backslashes are read as escapes. A
    quote that is still open at the end of the file is an error. A line of one cell is returned as a row even if others
    have more cells: its neighbours may be the rest of it.
    """
    sample = list(islice(lines, SAMPLED_LINES))
    separator = _SEPARATOR.fullmatch(sample[0] or b"") if sample else None
    delimiter = separator[1].decode() if separator else find_delimiter(sample)
    feed, width = _Feed(chain(sample[1:] if separator else sample, lines)), 0
    readers = _Readers(feed, delimiter)
    while feed.begin():
        row = readers.read(width)
        if row is not None and len(row) in (0, width or len(row)):
            width = width or len(row)
            yield from [row] if row else []
        else:
            lonely = row is not None and len(row) == len(feed.taken) == 1
            yield row if row and lonely else OVERSIZED if feed.taken == [None] else MALFORMED
            feed.repeat(after=1)


def find_delimiter(sample: Sequence[bytes | None]) -> str:
    """Return the delimiter with which most rows of a sample have as many cells as the first; by default a comma.

    If two are equal, the one that separates a URL or the name of an image in the first row wins, then the one with more
    columns.
    """
    texts = [_decoded(line) + "\n" for line in sample if line]

    def alike(delimiter: str) -> tuple[int, int, int]:
        rows: list[list[str]] = []
        with suppress(csv.Error):  # the rows before an error suffice
            rows.extend(row for row in csv.reader(texts, delimiter=delimiter) if row)
        width = len(rows[0]) if rows else 0
        places = sum(PLACE.fullmatch(cell.strip()) is not None for cell in rows[0]) if rows else 0
        return (sum(len(row) == width for row in rows), places, width) if width > 1 else (0, 0, 0)

    return max(DELIMITERS, key=alike)


def tsv_cells(lines: Iterator[bytes | None]) -> Iterator[Cells]:
    """Yield the rows of TSV: each line is a row, and quotes around a whole cell are removed.

    A line with an open quote, or with a backslash at its end, continues on the next lines. If the line is already a
    whole row, and so is the next, the quote is an ordinary character. If instead the next line closes the quote, either
    may be half a row, so both are malformed.
    """
    feed, width = _Feed(lines), 0
    while feed.begin():
        line = next(feed)
        if not line:
            yield from [OVERSIZED] if line is None else []
            continue
        text = _decoded(line)
        cells = text.split("\t")
        width = width or len(cells)
        if text.endswith("\\") or "\\\t" in text or any(map(_opens, cells)):
            yield from _go_on(feed, text, width)
        else:
            yield [_unquoted(cell) for cell in cells]


def _go_on(feed: _Feed, text: str, width: int) -> list[Cells]:
    """Return the row that begins with `text` and continues on the next lines, or the reason why it cannot be read."""
    cells, first = _tidy(text), [_unquoted(cell) for cell in text.split("\t")]
    whole = len(first) == width
    if cells is not None and (len(cells) == width or not whole):
        return [cells]
    while line := next(feed, None):
        more = _decoded(line)
        parts = more.split("\t")
        row = len(parts) == width > 1
        closes = any(part.endswith('"') and not part.startswith('"') and _odd(part) for part in parts)
        begins = not closes and (row or any(map(_opens, parts)))
        if whole and (row or begins) and len(feed.taken) == 2:
            feed.repeat(after=2 if closes else 1)
            return [MALFORMED, MALFORMED] if closes else [first]
        text, escaped = f"{text}\n{more}", text.endswith("\\")
        if len(text) > MAX_LINE_BYTES:
            return [OVERSIZED]
        if (closes or escaped) and (cells := _tidy(text)) is not None:
            return [cells if len(cells) == width else MALFORMED]
        if begins and not escaped:
            break
    alone = len(first) == 1 < width or (whole and feed.taken[1:] in ([], [b""]))
    feed.repeat(after=1)
    return [first if alone else MALFORMED]


def _tidy(text: str) -> list[str] | None:
    """Split a text at tabs that are not quoted or escaped; None where a quote or an escape is left open."""
    cells, end = [], 0
    while True:
        quoted = _QUOTED.match(text, end)
        found = quoted or _BARE.match(text, end)
        assert found is not None
        cell, end = found[0], found.end()
        if (end < len(text) and text[end] != "\t") or (quoted is None and (_opens(cell) or cell.endswith("\\"))):
            return None
        cells.append(_unquoted(cell) if quoted else re.sub(r"\\([\t\n])", r"\1", cell))
        if end == len(text):
            return cells
        end += 1


def _opens(cell: str) -> bool:
    return cell.startswith('"') and _odd(cell)


def _odd(cell: str) -> bool:
    return len(_QUOTES.findall(cell)) % 2 == 1


def _unquoted(cell: str) -> str:
    quoted = len(cell) > 1 and cell[0] == cell[-1] == '"'
    return cell[1:-1].replace('""', '"').replace('\\"', '"') if quoted else cell


def _decoded(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape")


class _OversizedLineError(Exception):
    pass


class _Readers:
    """Three readers of one feed: strict; with backslash escapes; and lenient, which allows text after a quote."""

    def __init__(self, feed: _Feed, delimiter: str) -> None:
        self._feed, self._special = feed, {"\\", '"', delimiter, "\n"}
        self._strict = csv.reader(map(_csv_line, feed), delimiter=delimiter, strict=True)
        escapes = map(self._with_other_backslashes_doubled, feed)
        self._escaped = csv.reader(escapes, delimiter=delimiter, escapechar="\\", strict=True)
        self._lenient = csv.reader(map(_csv_line, feed), delimiter=delimiter)

    def read(self, width: int) -> list[str] | None:
        """Read a row, preferably of `width` cells; None where it cannot be read."""
        row = self._try(self._strict)
        if row is not None and len(row) in (0, width or len(row)) and not (row and row[-1].endswith("\\")):
            return row
        if any(line and b"\\" in line for line in self._feed.taken):
            self._feed.repeat()
            escaped = self._try(self._escaped)
            if escaped is not None and len(escaped) == (width or len(escaped)):
                return escaped
        self._feed.repeat()
        return self._try(self._lenient)

    def _try(self, reader: Iterator[list[str]]) -> list[str] | None:
        try:
            row = next(reader)
        except (StopIteration, _OversizedLineError, csv.Error):
            return None
        return None if self._feed.ended else row

    def _with_other_backslashes_doubled(self, line: bytes | None) -> str:
        def doubled(found: re.Match[str]) -> str:
            return found[0] if found[1] in self._special else f"\\{found[0]}"

        return re.sub(r"\\(.)", doubled, _csv_line(line), flags=re.DOTALL)


def _csv_line(line: bytes | None) -> str:
    if line is None:
        raise _OversizedLineError
    return _decoded(line) + "\n"


class _Feed:
    """An iterator of lines that remembers those of the current row and can return them again."""

    def __init__(self, lines: Iterator[bytes | None]) -> None:
        self._lines = lines
        self._again: deque[bytes | None] = deque()
        self.taken: list[bytes | None] = []
        self.ended = False

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> bytes | None:
        try:
            line = self._again.popleft() if self._again else next(self._lines)
        except StopIteration:
            self.ended = True
            raise
        self.taken.append(line)
        return line

    def begin(self) -> bool:
        """Begin a row; return whether any line is left."""
        self.taken, self.ended = [], False
        if not self._again:
            self._again.extend(islice(self._lines, 1))
        return bool(self._again)

    def repeat(self, *, after: int = 0) -> None:
        """Return to the lines of the current row, except the first `after`."""
        self._again.extendleft(reversed(self.taken[after:]))
        self.taken, self.ended = self.taken[:after], False

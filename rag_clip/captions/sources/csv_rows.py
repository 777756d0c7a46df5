"""Read CSV and TSV row by row, with or without a header.

A bad row affects no other row, with one exception. Next to a line of a single cell, a row whose captions are in the
column at that side may be half of a caption with an unquoted line break, so it is refused too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import BinaryIO

import pyarrow as pa

from rag_clip.captions.sources.cells import Cells, csv_cells, tsv_cells
from rag_clip.captions.sources.columns import RECOGNISED, Columns
from rag_clip.captions.sources.formats import MALFORMED, Row, read_lines
from rag_clip.captions.sources.names import PLACE


def csv_rows(stream: BinaryIO, columns: Columns) -> Iterator[Row]:
    """Read CSV, including quoted line breaks; the delimiter is recognised by the first lines (see csv_cells).

    Without a header (no cell of the first row names the column of captions), the columns are column_1, column_2 ...
    """
    return _named(csv_cells(read_lines(stream)), columns)


def tsv_rows(stream: BinaryIO, columns: Columns) -> Iterator[Row]:
    """Read TSV, including quoted line breaks; a quote that is never closed is an ordinary character (see tsv_cells)."""
    return _named(tsv_cells(read_lines(stream)), columns)


def csv_schema(stream: BinaryIO, wanted: Columns, *, tabs: bool) -> tuple[pa.Schema, Columns]:
    """Return the columns from the first row; a row that contains a URL or the name of an image is not a header.

    Returns the schema, and `wanted`, completed for a file without a header by the values in its first row.
    """
    lines = read_lines(stream)
    cells = next((cells for cells in (tsv_cells if tabs else csv_cells)(lines) if isinstance(cells, list)), [])
    cells = [_visible(cell) for cell in cells]
    known = {name for names in RECOGNISED.values() for name in names}
    names = _numbered(cells)
    addresses = [name for name, cell in zip(names, cells, strict=True) if cell.startswith(("http://", "https://"))]
    images = [name for name, cell in zip(names, cells, strict=True) if PLACE.fullmatch(cell)]
    bare = addresses or images or wanted.text in names
    if wanted.text in cells or known & set(map(str.lower, cells)) or not bare:
        return pa.schema([(name, pa.string()) for name in cells]), wanted
    others = [name for name in names if name not in (*addresses, *images)]
    text = wanted.text or (others[0] if len(others) == 1 else None)
    url = wanted.url or next(iter(addresses), None)
    return pa.schema([(name, pa.string()) for name in names]), replace(wanted, text=text, url=url)


def _named(cells: Iterator[Cells], columns: Columns) -> Iterator[Row]:
    first = next((row for row in cells if isinstance(row, list)), None)
    if first is None:
        return
    visible = [_visible(cell) for cell in first]
    header = columns.text in visible
    names = visible if header else _numbered(first)
    place = names.index(columns.text) if columns.text in names else None
    before: Cells = MALFORMED
    for row, after in _with_next(cells if header else chain([first], cells)):
        half = (place == 0 and _lonely(before, names)) or (place == len(names) - 1 and _lonely(after, names))
        if isinstance(row, str) or len(row) != len(names) or half:
            yield row if isinstance(row, str) else MALFORMED
        else:
            yield dict(zip(names, row, strict=True))
        before = row


def _with_next(rows: Iterator[Cells]) -> Iterator[tuple[Cells, Cells]]:
    """Yield each row with the next one; MALFORMED follows the last row, also where an error ends the rows."""
    waiting: list[Cells] = []
    try:
        for row in rows:
            yield from [(waiting.pop(), row)] if waiting else []
            waiting.append(row)
    except Exception:
        yield from [(row, MALFORMED) for row in waiting]
        raise
    yield from [(row, MALFORMED) for row in waiting]


def _lonely(cells: Cells, names: Sequence[str]) -> bool:
    return isinstance(cells, list) and len(cells) == 1 < len(names)


def _numbered(cells: Sequence[str]) -> list[str]:
    return [f"column_{place}" for place in range(1, len(cells) + 1)]


def _visible(cell: str) -> str:
    return cell.encode("utf-8", "surrogateescape").decode("utf-8", "replace").strip()

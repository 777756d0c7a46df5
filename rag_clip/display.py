"""How values are shown in a Python prompt or notebook: as one line, and as an HTML table with escaped cells."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

MOST_NAMES = 5
MOST_ROWS = 10
_STYLE = "text-align:left;vertical-align:top"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, as in "1 class", "2 classes" and "3 queries"."""
    if count == 1:
        return f"1 {noun}"
    if re.search("[^aeiou]y$", noun):
        return f"{count} {noun[:-1]}ies"
    return f"{count} {noun}{'es' if noun.endswith(('s', 'x', 'ch', 'sh')) else 's'}"


def listed(names: Sequence[str]) -> str:
    """Return the first names as a list, and the number of the others."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def html_table(line: str, rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a line and the first rows of a table as HTML; the columns are those of the first row."""
    shown = list(islice(rows, MOST_ROWS + 1))
    heads = "".join(f"<th>{html.escape(str(name))}</th>" for name in (shown[0] if shown else ()))
    lines = "".join(
        f"<tr>{''.join(f'<td style={_STYLE!r}>{_cell(value)}</td>' for value in row.values())}</tr>"
        for row in shown[:MOST_ROWS]
    )
    more = "<p>...</p>" if len(shown) > MOST_ROWS else ""
    return f"<p>{html.escape(line)}</p><table><tr>{heads}</tr>{lines}</table>{more}"


def _cell(value: object) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else html.escape(str(value))

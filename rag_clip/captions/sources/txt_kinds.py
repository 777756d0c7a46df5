"""The format of a .txt file, from its first lines: one caption per line, or a table or JSON lines."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from itertools import islice
from typing import BinaryIO

from rag_clip.captions.sources.cells import DELIMITERS
from rag_clip.captions.sources.columns import RECOGNISED
from rag_clip.captions.sources.formats import SNIFFED_ROWS, parse_json, read_lines
from rag_clip.captions.sources.names import PLACE

_COLUMN = re.compile(r"[\w .#:-]{0,40}")
_BEGINS = re.compile(rf'"?{PLACE.pattern}"?([,;|\t ])', re.IGNORECASE)
_ENDS = re.compile(rf'.*([,;|])"?{PLACE.pattern}"?', re.IGNORECASE)


def find_txt_kind(stream: BinaryIO) -> str:
    """Return the format of a .txt file from its first 100 lines: `txt`, `csv`, `tsv`, `jsonl` or `json`.

    A table has a header that names a column of captions, or equally many tabs in each line, or a URL or the name of an
    image at the same end of each line. Raises ValueError, with the reason, for a file that is neither a table nor plain
    captions.
    """
    given = [line.decode("utf-8", "replace").strip() for line in islice(read_lines(stream), SNIFFED_ROWS) if line]
    lines = [line for line in given if line]
    if not lines:
        return "txt"
    if all(isinstance(parse_json(line.encode()), dict) for line in lines):
        return "jsonl"
    if lines[0] in ("[", "{") or lines[0].startswith(('[{"', '{"', '["', "[[")):
        return "json"
    delimiter = _under_header(lines) or _tabs(lines) or _beside_places(lines)
    return {"": "txt", "\t": "tsv"}.get(delimiter, "csv")


def _under_header(lines: Sequence[str]) -> str:
    """Return the delimiter of a header with a column of captions; "" if the first line is not a header."""
    for delimiter in DELIMITERS:
        cells = [cell.strip(' "').lower() for cell in lines[0].split(delimiter)]
        if len(cells) > 1 and all(map(_COLUMN.fullmatch, cells)) and set(cells) & set(RECOGNISED["text"]):
            widths = [len(row) for row in csv.reader((f"{line}\n" for line in lines[1:]), delimiter=delimiter)]
            if 2 * widths.count(len(cells)) < len(widths):
                raise ValueError(
                    f"its first line {lines[0]!r} names columns, but {widths.count(len(cells))} of the next "
                    f"{len(widths)} rows have as many cells; quote cells that hold {delimiter!r}, or remove that line"
                )
            return delimiter
    return ""


def _tabs(lines: Sequence[str]) -> str:
    counts = {line.count("\t") for line in lines}
    if len(counts) > 1 and 0 not in counts:
        raise ValueError("every line has tabs, but not as many; give each row one cell for each column")
    return "" if 0 in counts else "\t"


def _beside_places(lines: Sequence[str]) -> str:
    """Return the delimiter between each caption and a URL or image name at the same end of every line; "" if none."""
    for pattern in (_BEGINS, _ENDS) if len(lines) > 1 else ():
        found = {match[1] if (match := pattern.match(line)) else "" for line in lines}
        if found == {" "}:
            raise ValueError(
                "every line begins with the name or address of an image and a space; put a tab between it and the "
                "caption, or leave it out"
            )
        if len(found) == 1 and found != {""}:
            return found.pop()
    return ""

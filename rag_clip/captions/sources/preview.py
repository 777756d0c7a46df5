"""Preview a corpus before it is embedded: its columns, some rows, and what would be dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import pyarrow as pa

from rag_clip.captions.sources.finding import SourceError, SourceFile, read_source, unreadable
from rag_clip.data import Kept

SHOWN_ROWS = 10
LOOKED_INTO = 20
ROWS_EACH = 1000


@dataclass(frozen=True, slots=True)
class Preview:
    """A preview of a corpus, from the first rows of some files.

    rows: table with columns `file`, `row`, `text` (as in the file), `cleaned` (null if dropped) and `dropped` (the
        reason, or null), taken from the files in turn.
    files: the files examined.
    read, kept, dropped: rows read, kept, and dropped by reason; read = kept + sum(dropped).
    damaged: the errors of damaged files.
    """

    rows: pa.Table
    files: tuple[SourceFile, ...]
    read: int
    kept: int
    dropped: Mapping[str, int]
    damaged: tuple[str, ...]


def preview(sources: Sequence[SourceFile], *, clean: Callable[[pa.Table], Kept], rows: int = SHOWN_ROWS) -> Preview:
    """Read the first 1,000 rows of up to 20 files, spread over the corpus, and clean them; nothing is written.

    Steps that compare rows (duplicates, rare words) see only these rows, so they drop fewer than in the whole corpus.
    Damaged files do not raise; their errors are in the preview.
    """
    files = _spread(sources)
    looked = [_look(source, clean) for source in files]
    dropped = sum((look.dropped for look in looked), Counter[str]())
    read = sum(look.read for look in looked)
    turns = [row for turn in zip_longest(*(look.rows for look in looked)) for row in turn if row is not None]
    fields = [
        ("file", pa.string()),
        ("row", pa.int64()),
        *((name, pa.string()) for name in ("text", "cleaned", "dropped")),
    ]
    table = pa.Table.from_pylist(turns[:rows], schema=pa.schema(fields))
    damaged = tuple(look.damage for look in looked if look.damage)
    return Preview(table, tuple(files), read, read - dropped.total(), dict(dropped), damaged)


@dataclass(frozen=True, slots=True)
class _Look:
    rows: list[dict[str, object]]
    read: int
    dropped: Counter[str]
    damage: str


def _spread(sources: Sequence[SourceFile]) -> list[SourceFile]:
    count = min(len(sources), LOOKED_INTO)
    return [sources[place * len(sources) // count] for place in range(count)]


def _look(source: SourceFile, clean: Callable[[pa.Table], Kept]) -> _Look:
    records, damage = _first_rows(source)
    if records is None:
        return _Look([], 0, Counter(), damage)
    readable = unreadable(records)
    cleaned = clean(readable.selected)
    reasons = _by_row(readable.dropped, readable.reason) | _by_row(cleaned.dropped, cleaned.reason)
    texts = _by_row(cleaned.selected, cleaned.selected.column("text").to_pylist())
    rows = [
        {
            "file": source.address,
            "row": row,
            "text": text,
            "cleaned": texts.get(row),
            "dropped": reasons.get(row),
        }
        for row, text in zip(records.column("row").to_pylist(), records.column("text").to_pylist(), strict=True)
    ]
    return _Look(rows, len(records), Counter(reasons.values()), damage)


def _by_row(records: pa.Table, values: Sequence[str]) -> dict[int, str]:
    return dict(zip(records.column("row").to_pylist(), values, strict=True))


def _first_rows(source: SourceFile) -> tuple[pa.Table | None, str]:
    """Return the first rows, or None without any, and the error while reading them, or ''."""
    batches: list[pa.RecordBatch] = []
    try:
        for batch in read_source(source, batch_rows=ROWS_EACH):
            batches.append(batch)
            if len(batch) == ROWS_EACH:
                break
    except SourceError as error:
        return (pa.Table.from_batches(batches) if batches else None), str(error)
    return (pa.Table.from_batches(batches) if batches else None), ""

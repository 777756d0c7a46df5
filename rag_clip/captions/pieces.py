"""The rows of a file, cut into pieces that become shards, and cleaned."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from rag_clip.captions.filter import with_file
from rag_clip.captions.sources.files import SourceError
from rag_clip.captions.sources.finding import SourceFile, read_source
from rag_clip.corpus.steps import Step
from rag_clip.data import Kept
from rag_clip.store import caption_id

READ_ROWS = 4096
SAMPLED_DROPS = 20


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of a file, from row `start` on; `failure` is the reason if the rest could not be read."""

    source: SourceFile
    start: int
    rows: pa.Table
    last: bool
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A cleaned piece: distinct captions with an `id`, the number repeated and dropped, and a sample of drops."""

    piece: Piece
    captions: pa.Table
    repeated: int
    dropped: Mapping[str, int]
    sample: pa.Table


def cut(source: SourceFile, size: int, *, start: int = 0) -> Iterator[Piece]:
    """Yield the rows of a file, from `start` on, in pieces of `size`; the last may be shorter, and none is empty.

    A damaged file ends with a piece, possibly without rows, that states its failure.
    """
    pending: list[pa.RecordBatch] = []
    waiting, failure = 0, ""
    batches = read_source(source, batch_rows=READ_ROWS, start=start)
    while True:
        try:
            batch = next(batches, None)
        except SourceError as error:
            batch, failure = None, str(error)
        if batch is None:
            break
        pending.append(batch)
        waiting += batch.num_rows
        while waiting > size:
            table = pa.Table.from_batches(pending)
            yield Piece(source, start, table.slice(0, size), last=False)
            pending, start, waiting = table.slice(size).to_batches(), start + size, waiting - size
    if waiting or failure:
        rows = pa.Table.from_batches(pending) if pending else pa.table({"text": pa.array([], pa.string())})
        yield Piece(source, start, rows, last=not failure, failure=failure)


def clean_piece(piece: Piece, step: Step, key: str) -> Cleaned:
    """Clean a piece; `key` is the seed of the sample of drops."""
    if not piece.rows.num_rows:
        return Cleaned(piece, piece.rows, 0, {}, piece.rows)
    kept = step(with_file(piece.rows, piece.source))
    captions, repeated = _identify(kept.selected)
    return Cleaned(piece, captions, repeated, dict(Counter(kept.reason)), sample_drops(kept, key))


def _identify(captions: pa.Table) -> tuple[pa.Table, int]:
    """Return the captions with a first column `id`, without repeats, and the number of repeats."""
    pairs = zip(captions["source"].to_pylist(), captions["text"].to_pylist(), strict=True)
    ids = [caption_id(source, text) for source, text in pairs]
    first: dict[str, int] = {}
    for row, name in enumerate(ids):
        first.setdefault(name, row)
    chosen = captions.take(pa.array(first.values(), pa.int64()))
    return chosen.add_column(0, "id", pa.array(first, pa.string())), len(ids) - len(first)


def sample_drops(kept: Kept, key: str) -> pa.Table:
    """Return up to SAMPLED_DROPS dropped rows per reason, with column `reason`; the draw depends on `key` only."""
    rows: dict[str, list[int]] = {}
    for row, reason in enumerate(kept.reason):
        rows.setdefault(reason, []).append(row)
    draw = random.Random(key)
    chosen = sorted(row for found in rows.values() for row in draw.sample(found, min(SAMPLED_DROPS, len(found))))
    reasons = pa.array(kept.reason, pa.string()).take(pa.array(chosen, pa.int64()))
    return kept.dropped.take(pa.array(chosen, pa.int64())).append_column("reason", reasons)

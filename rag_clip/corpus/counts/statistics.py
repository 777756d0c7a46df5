"""Counts of a corpus, made once and kept in a folder: its words and word pairs, and its repeated captions.

    unigrams.parquet, bigrams.parquet   key (hash), gram, count: sorted by key
    repeats/                            captions that occur more than once: key, first place, images
    near/                               places that nearly repeat an earlier one, if requested
    counts.json                         totals and file names; written last

Memory is bounded by `rows` of `count_corpus`: the twentieth part of so many captions is counted at a time, a quarter of
so many keys is written at a time, and about so many are read back at a time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from rag_clip.corpus.clean import clean
from rag_clip.corpus.counts.ngrams import NAMES, NgramCounter
from rag_clip.corpus.counts.on_disk import MappedColumns
from rag_clip.corpus.counts.positions import Places
from rag_clip.corpus.counts.repeats import PLACES, REPEATS, RepeatFinder
from rag_clip.corpus.counts.tokens import caption_keys, spoken
from rag_clip.corpus.near_duplicates import band_keys
from rag_clip.corpus.steps import Step
from rag_clip.display import counted
from rag_clip.files.atomic import partial_of
from rag_clip.files.folders import make_folder, sync_folder
from rag_clip.progress import ProgressEvent, Report, silent

LAYOUT = 1


@dataclass(frozen=True, slots=True)
class Totals:
    """Totals of a corpus.

    rows, captions: rows read, and captions that the rules keep.
    unigrams, bigrams: distinct n-grams.
    repeated: distinct captions that occur more than once.
    near: rows that nearly repeat an earlier one; None if not counted.
    """

    rows: int
    captions: int
    unigrams: int
    bigrams: int
    repeated: int
    near: int | None


class CorpusCounts:
    """The counts of a corpus, opened from their folder; look-ups read only what they need."""

    def __init__(self, sidecar: str | Path) -> None:
        self._folder = Path(sidecar)
        card = _read_card(self._folder)
        self.totals = Totals(**card["totals"])
        self.places = Places(card["files"])
        self.repeats = MappedColumns(self._folder / "repeats", REPEATS)
        self.later = MappedColumns(self._folder / "near", PLACES) if self.totals.near is not None else None

    def count(self, grams: Sequence[str]) -> dict[str, int]:
        """Return the number of occurrences of each word or word pair in the corpus; case is ignored.

        Raises ValueError for more than two words, which `phrase_counts` counts in the captions themselves.
        """
        wanted = {gram: spoken(gram) for gram in grams}
        for gram, words in wanted.items():
            if len(words) not in NAMES:
                raise ValueError(
                    f"{gram!r} has {counted(len(words), 'word')}; the sidecar counts 1 and 2, phrase_counts any"
                )
        found: dict[str, int] = {}
        for size in NAMES:
            joined = [" ".join(words) for words in wanted.values() if len(words) == size]
            rows = self._scan(size).filter(pl.col("gram").is_in(joined)).select("gram", "count")
            found |= dict(rows.collect(engine="streaming").iter_rows())
        return {gram: found.get(" ".join(words), 0) for gram, words in wanted.items()}

    def frequent(self, size: int, *, least: int) -> np.ndarray:
        """Return the sorted keys, uint64, of the n-grams of `size` words that occur at least `least` times."""
        keys = self._scan(size).filter(pl.col("count") >= least).select("key").collect(engine="streaming")
        return np.sort(keys["key"].to_numpy())

    def least_count(self, vocabulary: int) -> int:
        """Return the smallest count of an n-gram among the `vocabulary` most frequent words and word pairs.

        N-grams with that count are all included. Returns 1 if there are fewer n-grams than `vocabulary`.
        """
        histogram = (
            pl.concat([self._scan(size).select("count") for size in NAMES])
            .group_by("count")
            .agg(grams=pl.len())
            .sort("count", descending=True)
            .with_columns(up_to=pl.col("grams").cum_sum())
            .collect(engine="streaming")
        )
        reached = histogram.filter(pl.col("up_to") >= vocabulary)
        return int(reached["count"][0]) if len(reached) else 1

    def _scan(self, size: int) -> pl.LazyFrame:
        return pl.scan_parquet(self._folder / f"{NAMES[size]}.parquet")


def count_corpus(
    tables: Iterable[pa.Table],
    sidecar: str | Path,
    *,
    rules: Step = clean,
    near: float | None = None,
    rows: int = 500_000,
    report: Report = silent,
) -> CorpusCounts:
    """Count a corpus into the folder `sidecar`.

    tables: records with columns `text`, `file` and `row`, and optionally `sha256` or `url`.
    sidecar: the folder; an existing one is replaced once the new one is complete. One process at a time may write it.
    rules: steps that decide on single rows; only captions that they keep are counted, so that the first of equal
        captions is one that they keep.
    near: if given, captions of about this similarity or more are found too.
    rows: rows of n-grams and of keys to hold in memory at once; the others wait on disk.
    report: receives progress events.

    Raises ValueError for missing columns.
    """
    target = Path(sidecar)
    make_folder(target.parent)
    partial = partial_of(target)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        _count(tables, partial, rules, near, rows, report)
        shutil.rmtree(partial / "spill")
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return CorpusCounts(target)


def _count(
    tables: Iterable[pa.Table], folder: Path, rules: Step, near: float | None, limit: int, report: Report
) -> None:
    spill = folder / "spill"
    ngrams = NgramCounter(spill, rows=limit)
    exact, close = (RepeatFinder(spill / name, rows=limit) for name in ("exact", "near"))
    rows = captions = 0
    for table in tables:
        kept = rules(table).selected
        texts = pl.Series(kept.column("text")).cast(pl.String)
        ngrams.add(texts)
        exact.add(kept, caption_keys(texts)[:, None])
        if near is not None:
            close.add(kept, band_keys(texts, similarity=near))
        rows, captions = rows + table.num_rows, captions + kept.num_rows
        report(ProgressEvent("count", rows, None, "captions"))
    grams = ngrams.write(folder)
    repeated = exact.write_repeats(folder / "repeats")
    found = close.write_later(folder / "near") if near is not None else None
    totals = Totals(rows, captions, grams["unigrams"], grams["bigrams"], repeated, found)
    card = {"layout": LAYOUT, "totals": asdict(totals), "files": sorted(exact.files)}
    (folder / "counts.json").write_text(json.dumps(card, indent=1))


def _read_card(folder: Path) -> dict[str, Any]:
    try:
        card: dict[str, Any] = json.loads((folder / "counts.json").read_text())
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no counts of a corpus; make them with count_corpus") from None
    if card["layout"] != LAYOUT:
        raise ValueError(f"{folder} has layout {card['layout']}; this release reads {LAYOUT}: count the corpus again")
    return card

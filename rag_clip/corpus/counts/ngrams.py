"""Count the words and word pairs of a corpus, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from rag_clip.corpus.counts.on_disk import Spill
from rag_clip.corpus.counts.tokens import grams_of, keys_of, words_of

NAMES = {1: "unigrams", 2: "bigrams"}


class NgramCounter:
    """Counts `rows` / 20 captions at a time, and spills the partial counts, sorted by hash."""

    def __init__(self, folder: Path, *, rows: int) -> None:
        self._limit = max(1, rows // 20)
        self._spills = {size: Spill(folder / name, range_rows=rows) for size, name in NAMES.items()}
        self._waiting: list[pl.Series] = []
        self._captions = 0

    def add(self, texts: pl.Series) -> None:
        """Count the n-grams of captions."""
        self._waiting.append(texts)
        self._captions += len(texts)
        if self._captions >= self._limit:
            self._flush()

    def write(self, sidecar: Path) -> dict[str, int]:
        """Write unigrams.parquet and bigrams.parquet (key, gram, count), sorted by key; return their rows."""
        self._flush()
        return {name: _write(self._merged(size), sidecar / f"{name}.parquet") for size, name in NAMES.items()}

    def _flush(self) -> None:
        if not self._waiting:
            return
        words = words_of(pl.concat(self._waiting))
        for size, spill in self._spills.items():
            counts = (
                (words if size == 1 else grams_of(words, size)).group_by("gram").agg(count=pl.len().cast(pl.UInt64))
            )
            spill.write(counts.select(key=pl.Series(keys_of(counts["gram"].to_list())), gram="gram", count="count"))
        self._waiting, self._captions = [], 0

    def _merged(self, size: int) -> Iterator[pl.DataFrame]:
        for part in self._spills[size].ranges():
            yield part.group_by("key", "gram").agg(pl.col("count").sum()).sort("key", "gram")


def _write(parts: Iterator[pl.DataFrame], path: Path) -> int:
    schema = pa.schema([("key", pa.uint64()), ("gram", pa.string()), ("count", pa.uint64())])
    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for part in parts:
            writer.write_table(part.to_arrow().cast(schema), row_group_size=100_000)
            rows += len(part)
    return rows

"""Drop captions that nearly repeat an earlier one, found by MinHash over pairs of adjacent words.

Broder, 1997 ("On the resemblance and containment of documents"): under a random hash, the minima over the word pairs of
two captions are equal with probability J, the Jaccard similarity of the two sets. h = b*r such minima are split into b
bands of r. Two captions are near duplicates if all minima of a band agree, with probability 1 - (1 - J^r)^b. For h =
256 and r = 16 (the default) that is 0.0002, 0.05, 0.37, 0.96 at J = 0.5, 0.7, 0.8, 0.9: in doubt a caption is kept.

A caption is dropped if an earlier one shares a band with it, even if the earlier one was dropped itself.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from rag_clip.corpus.counts.on_disk import MappedColumns
from rag_clip.corpus.counts.positions import Places
from rag_clip.corpus.counts.repeats import spread
from rag_clip.corpus.counts.tokens import grams_of, words_of
from rag_clip.corpus.steps import Step, fault, split
from rag_clip.data import Kept

NEAR_DUPLICATE = "near_duplicate"
HASHES = 256
_BAND_ROWS = (4, 8, 16, 32, 64)
_DRAW = np.random.default_rng(20261122)
_FACTORS = _DRAW.integers(2**63, size=HASHES, dtype=np.uint64) * 2 + 1
_OFFSETS = _DRAW.integers(2**63, size=HASHES, dtype=np.uint64)
_MIX = _DRAW.integers(2**63, size=HASHES, dtype=np.uint64) * 2 + 1


def near_duplicates(later: MappedColumns, places: Places) -> Step:
    """Drop the rows that `CorpusCounts` found to nearly repeat an earlier row; both arguments come from there."""

    def step(records: pa.Table) -> Kept:
        found, _ = later.find(spread(places.of(records)))
        return split(records, fault(NEAR_DUPLICATE, pl.Series(found)))

    return step


def rows_per_band(similarity: float) -> int:
    """Return the r whose curve is steepest closest to `similarity`; the steepest point is J = (r / h)^(1 / r)."""
    return min(_BAND_ROWS, key=lambda rows: abs((rows / HASHES) ** (1 / rows) - similarity))


def band_keys(texts: pl.Series, *, similarity: float) -> np.ndarray:
    """Return a key for each band of each caption, uint64 [n, b]; captions without words share no key with others."""
    minima = signatures(texts)
    rows = rows_per_band(similarity)
    mixed = (minima.astype(np.uint64) * _MIX).reshape(len(texts), -1, rows).sum(2, dtype=np.uint64)
    mixed ^= mixed >> np.uint64(31)
    keys: np.ndarray = (mixed * _MIX[0]) ^ (np.arange(mixed.shape[1], dtype=np.uint64) << np.uint64(56))
    return keys


def signatures(texts: pl.Series) -> np.ndarray:
    """Return MinHash signatures of captions, uint32 [n, h], over their word pairs, or over the word of a single one."""
    words = words_of(texts)
    lone = words.filter(pl.len().over("row") == 1)
    shingles = pl.concat([grams_of(words, 2), lone]).sort("row", maintain_order=True)
    hashes = shingles["gram"].hash(seed=1).to_numpy()
    rows, starts = np.unique(shingles["row"].to_numpy(), return_index=True)
    # Random at first, so that captions without words agree with no other.
    minima = np.random.default_rng(len(texts)).integers(2**32, size=(len(texts), HASHES), dtype=np.uint32)
    for column in range(HASHES if len(rows) else 0):
        # A new multiply-shift hash for each column, of which the high bits are the well mixed ones.
        hashed = ((hashes * _FACTORS[column] + _OFFSETS[column]) >> np.uint64(32)).astype(np.uint32)
        minima[rows, column] = np.minimum.reduceat(hashed, starts)
    return minima

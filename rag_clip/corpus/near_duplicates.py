"""Drop captions that nearly repeat an earlier one, found by MinHash over pairs of neighbouring words.

Broder, 1997 ("On the resemblance and containment of documents"): under a random hash the smallest value over the word
pairs of two captions is the same with probability J, the Jaccard similarity of their sets. h = b*r such minima are cut
into b bands of r; two captions become neighbours where a band agrees, with probability 1 - (1 - J^r)^b. With h = 256,
r = 16 (the default) that is 0.0002, 0.05, 0.37, 0.96 at J = 0.5, 0.7, 0.8, 0.9: it rather keeps than drops.

A caption is dropped when the first of some band is another's, whether or not that one was dropped itself.
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
    """Drop the rows whose place was found to nearly repeat an earlier one (see CorpusCounts)."""

    def step(records: pa.Table) -> Kept:
        found, _ = later.find(spread(places.of(records)))
        return split(records, fault(NEAR_DUPLICATE, pl.Series(found)))

    return step


def rows_per_band(similarity: float) -> int:
    """Return the r whose curve is steepest, at J = (r / h)^(1 / r), nearest to the similarity asked for."""
    return min(_BAND_ROWS, key=lambda rows: abs((rows / HASHES) ** (1 / rows) - similarity))


def band_keys(texts: pl.Series, *, similarity: float) -> np.ndarray:
    """Return the keys uint64 [n, b] of the bands of captions; captions without a word share no key with others."""
    minima = signatures(texts)
    rows = rows_per_band(similarity)
    mixed = (minima.astype(np.uint64) * _MIX).reshape(len(texts), -1, rows).sum(2, dtype=np.uint64)
    mixed ^= mixed >> np.uint64(31)
    keys: np.ndarray = (mixed * _MIX[0]) ^ (np.arange(mixed.shape[1], dtype=np.uint64) << np.uint64(56))
    return keys


def signatures(texts: pl.Series) -> np.ndarray:
    """Return the MinHash signatures uint32 [n, h] of captions over their word pairs (over the word where it is one)."""
    words = words_of(texts)
    lone = words.filter(pl.len().over("row") == 1)
    shingles = pl.concat([grams_of(words, 2), lone]).sort("row", maintain_order=True)
    hashes = shingles["gram"].hash(seed=1).to_numpy()
    rows, starts = np.unique(shingles["row"].to_numpy(), return_index=True)
    minima = np.random.default_rng(len(texts)).integers(2**32, size=(len(texts), HASHES), dtype=np.uint32)
    for column in range(HASHES if len(rows) else 0):
        hashed = ((hashes * _FACTORS[column] + _OFFSETS[column]) >> np.uint64(32)).astype(np.uint32)
        minima[rows, column] = np.minimum.reduceat(hashed, starts)
    return minima

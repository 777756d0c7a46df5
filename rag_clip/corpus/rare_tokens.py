"""Drop captions with a rare token, by the counts of the corpus itself.

ALIGN (Jia et al., 2021, arXiv 2102.05918) drops an alt-text if any of its unigrams or bigrams is not among the 100
million most frequent ones of the raw corpus. In a corpus with fewer n-grams that drops nothing; set a minimum count of
words instead (2 to 5), which also drops every caption with a name that occurs only once.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from rag_clip.corpus.counts.tokens import grams_of, keys_of, words_of
from rag_clip.corpus.steps import Step, fault, split, texts_of
from rag_clip.data import Kept

RARE_TOKEN = "rare_token"


def rare_tokens(*, unigrams: np.ndarray | None, bigrams: np.ndarray | None) -> Step:
    """Keep captions whose n-grams are all frequent; the score is the number of rare n-grams.

    `unigrams` and `bigrams` are the sorted keys, uint64, of the frequent n-grams (see `CorpusCounts.frequent`), or None
    for no rule. Memory: 8 bytes per frequent n-gram, so 800 MB for ALIGN's 100 million.
    """

    def step(records: pa.Table) -> Kept:
        texts = texts_of(records)
        words = words_of(texts)
        rare = np.zeros(len(texts), np.int64)
        for size, frequent in ((1, unigrams), (2, bigrams)):
            if frequent is not None:
                rare += _count_rare(words if size == 1 else grams_of(words, size), frequent, len(texts))
        return split(records, fault(RARE_TOKEN, pl.Series(rare > 0)), pl.Series(rare))

    return step


def _count_rare(grams: pl.DataFrame, frequent: np.ndarray, count: int) -> np.ndarray:
    """Return the number of rare n-grams of each text, int64 [n]."""
    distinct = grams["gram"].unique()
    keys = keys_of(distinct.to_list())
    places = np.searchsorted(frequent, keys).clip(max=max(0, len(frequent) - 1))
    known = frequent[places] == keys if len(frequent) else np.zeros(len(keys), bool)
    rows = grams.filter(pl.col("gram").is_in(distinct.filter(pl.Series(~known)).implode()))["row"].to_numpy()
    return np.bincount(rows, minlength=count)

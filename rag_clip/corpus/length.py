"""Drop captions that are too short or too long, in words and in characters.

ALIGN (Jia et al., 2021, arXiv 2102.05918) keeps captions of 3 to 20 unigrams. For captions that only name an object,
use a lower bound of 1.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from rag_clip.corpus.counts.tokens import count_words
from rag_clip.corpus.steps import Step, split, texts_of
from rag_clip.data import Kept


def length(
    *,
    min_words: int = 0,
    max_words: int | None = None,
    min_characters: int = 0,
    max_characters: int | None = None,
) -> Step:
    """Keep captions within the inclusive bounds; the score is the length outside them.

    Reasons: `few_words`, `many_words`, `few_characters`, `many_characters`; the first that applies.
    """

    def step(records: pa.Table) -> Kept:
        texts = texts_of(records)
        counts = pl.DataFrame({"words": count_words(texts), "characters": texts.str.len_chars()})
        rules = [("words", min_words, max_words), ("characters", min_characters, max_characters)]
        reason, score = pl.lit(None, pl.String), pl.lit(None, pl.UInt32)
        for unit, low, high in reversed(rules):
            if high is not None:
                long = pl.col(unit) > high
                reason = pl.when(long).then(pl.lit(f"many_{unit}")).otherwise(reason)
                score = pl.when(long).then(unit).otherwise(score)
            short = pl.col(unit) < low
            reason = pl.when(short).then(pl.lit(f"few_{unit}")).otherwise(reason)
            score = pl.when(short).then(unit).otherwise(score)
        verdict = counts.select(reason=reason, score=score)
        return split(records, verdict["reason"], verdict["score"])

    return step

"""Count phrases in a corpus, thousands of them in one pass.

REAL (Parashar et al., 2024, arXiv 2401.12425) asks how often each synonym of a class name occurs in the pre-training
captions. Words are folded as in rag_clip.words, and matched whole and in order: "cat" is not in "catalogue", "maine
coon" is in "Maine-Coon".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import polars as pl
import pyarrow as pa

from rag_clip.corpus.clean import clean
from rag_clip.corpus.counts.tokens import folded_words_of, grams_of
from rag_clip.corpus.steps import Step
from rag_clip.words import spoken, words_of


def phrase_counts(tables: Iterable[pa.Table], phrases: Sequence[str], *, rules: Step = clean) -> dict[str, int]:
    """Return the occurrences of each phrase in the captions that `rules` keeps; case and punctuation are ignored.

    Memory holds one table and the phrases. A phrase without a word counts 0.
    """
    wanted = {phrase: words_of(spoken(phrase)) for phrase in phrases}
    sizes = sorted({len(words) for words in wanted.values()} - {0})
    by_size = {
        size: pl.DataFrame({"gram": sorted({" ".join(words) for words in wanted.values() if len(words) == size})})
        for size in sizes
    }
    counts: Counter[str] = Counter()
    for table in tables:
        words = folded_words_of(pl.Series(rules(table).selected.column("text")).cast(pl.String))
        for size, grams in by_size.items():
            found = grams_of(words, size).join(grams, on="gram", how="semi").group_by("gram").len()
            counts.update(dict(found.iter_rows()))
    return {phrase: counts[" ".join(words)] for phrase, words in wanted.items()}

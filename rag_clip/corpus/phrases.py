"""Count phrases in a corpus: given phrases, thousands in one pass, or the most frequent ones.

REAL (Parashar et al., 2024, arXiv 2401.12425) needs the frequency of each synonym of a class name in the pre-training
captions. Words are folded as in rag_clip.words and must match whole and in order: "cat" is not in "catalogue"; "maine
coon" is in "Maine-Coon".

Frequent phrases are candidates for names of further classes: one to three adjacent words, in lower case and without
punctuation. Phrases that begin or end with an English function word, or have no letter, are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import polars as pl
import pyarrow as pa

from rag_clip import words as folding
from rag_clip.corpus.clean import clean
from rag_clip.corpus.counts.tokens import UNSPACED, folded_words_of, grams_of, words_of
from rag_clip.corpus.steps import Step

LONGEST = 3
FUNCTION_WORDS = (
    "a|an|the|this|that|these|those|some|any|each|every|all|both|no|not|such|same|other|another|more|most|"
    "much|many|few|and|or|but|nor|so|yet|if|then|than|as|while|because|although|though|until|unless|whether|"
    "when|where|why|how|which|who|whom|whose|what|there|here|of|in|on|at|by|for|with|without|from|to|into|"
    "onto|upon|over|under|above|below|up|down|out|off|about|across|after|before|between|among|against|along|"
    "around|behind|beneath|beside|besides|beyond|during|except|inside|outside|near|past|since|through|"
    "throughout|toward|towards|via|within|per|like|am|is|are|was|were|be|been|being|has|have|had|having|do|"
    "does|did|doing|can|could|will|would|shall|should|may|might|must|it|its|it's|i|i'm|me|my|mine|myself|you|"
    "your|yours|we|us|our|ours|they|them|their|theirs|he|him|his|she|her|hers|himself|herself|itself|"
    "themselves|one's|also|too|very|just|only|even|still|again|ever|never|now|don't|doesn't|isn't|aren't|"
    "wasn't|didn't|can't|won't"
)


def phrase_counts(tables: Iterable[pa.Table], phrases: Sequence[str], *, rules: Step = clean) -> dict[str, int]:
    """Return the number of occurrences of each phrase in the captions that `rules` keeps.

    Case and punctuation are ignored; a phrase without words has count 0. Memory is that of one table and the phrases.
    """
    wanted = {phrase: folding.words_of(folding.spoken(phrase)) for phrase in phrases}
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


def frequent_phrases(texts: Iterable[pl.Series], *, most: int, limit: int = 4_000_000) -> dict[str, int]:
    """Return the `most` frequent phrases with their counts, the most frequent first, ties in order of spelling.

    `texts` are parts of a corpus, counted one at a time. To bound memory, the rarer half is dropped above `limit`
    phrases and may be counted again later, so counts of rare phrases of a large corpus are lower bounds.
    """
    counts = pl.DataFrame(schema={"gram": pl.String, "count": pl.UInt32})
    for part in texts:
        words = words_of(part)
        grams = [_counted(grams_of(words, size)) for size in range(1, LONGEST + 1)]
        counts = pl.concat([counts, *grams]).group_by("gram").agg(pl.col("count").sum())
        if len(counts) > limit:
            counts = _most(counts, limit // 2)
    found = _most(counts, most)
    return dict(zip(joined(found["gram"].to_list()), found["count"].to_list(), strict=True))


def phrases_in(texts: pl.Series) -> pl.DataFrame:
    """Return the phrases of each text, such as `frequent_phrases` counts, once each: columns `row` and `gram`."""
    words = words_of(texts)
    grams = pl.concat([grams_of(words, size) for size in range(1, LONGEST + 1)]).unique()
    names = grams.select(pl.col("gram").unique()).filter(~pl.col("gram").str.contains(_NAMELESS))
    return grams.join(names, on="gram", how="semi").sort("row", "gram")


def caption_counts(texts: Iterable[pl.Series], phrases: Sequence[str]) -> tuple[list[int], int]:
    """Return in how many captions each phrase of `phrases_in` occurs, and how many captions there are.

    `texts` are parts of a corpus, counted one at a time. Raises ValueError for phrases that are not distinct.
    """
    if len(set(phrases)) < len(phrases):
        raise ValueError("a phrase is given twice; give each once")
    wanted = pl.DataFrame({"gram": phrases}, schema={"gram": pl.String})
    counts, total = Counter[str](), 0
    for part in texts:
        words, total = words_of(part), total + len(part)
        for size in range(1, LONGEST + 1):
            found = grams_of(words, size).join(wanted, on="gram", how="semi").unique()
            counts.update(dict(found.group_by("gram").len().iter_rows()))
    return [counts[phrase] for phrase in phrases], total


def joined(phrases: Sequence[str]) -> list[str]:
    """Return phrases without the gaps between letters of scripts that are written without spaces."""
    # Matches cannot overlap, so a second pass joins every other gap.
    names = pl.Series(phrases, dtype=pl.String)
    return names.str.replace_all(_GAP, "$1$2").str.replace_all(_GAP, "$1$2").to_list()


_NAMELESS = rf"^(?:{FUNCTION_WORDS})(?: |$)| (?:{FUNCTION_WORDS})$|^[^\p{{L}}]*$"
_GAP = rf"([{UNSPACED}]) ([{UNSPACED}])"


def _counted(grams: pl.DataFrame) -> pl.DataFrame:
    counts = grams.group_by("gram").agg(count=pl.len().cast(pl.UInt32))
    return counts.filter(~pl.col("gram").str.contains(_NAMELESS))


def _most(counts: pl.DataFrame, most: int) -> pl.DataFrame:
    return counts.sort(["count", "gram"], descending=[True, False]).head(most)

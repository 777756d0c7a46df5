"""Words of captions: as written, for lengths and n-grams, and folded, for finding names."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import polars as pl

from rag_clip import words as folding

# Scripts written without spaces count each letter as a word.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
WORD = rf"[[\p{{L}}\p{{M}}\p{{N}}]&&[^{UNSPACED}]]+(?:['’]\p{{L}}+)*|[{UNSPACED}]"


def count_words(texts: pl.Series) -> pl.Series:
    """Count the words of each text; null stays null."""
    return texts.str.count_matches(WORD)


def words_of(texts: pl.Series) -> pl.DataFrame:
    """Return the words in lower case, one per row, in reading order: columns `row` (index of the text) and `gram`."""
    listed = texts.fill_null("").str.to_lowercase().str.extract_all(WORD)
    return pl.DataFrame({"row": np.arange(len(texts)), "gram": listed}).explode("gram").drop_nulls("gram")


def folded_words_of(texts: pl.Series) -> pl.DataFrame:
    """Return the folded words as in rag_clip.words, one per row, in reading order; columns as in `words_of`."""
    texts = texts.fill_null("").rename("text")
    plain = pl.col("text").str.len_bytes() == pl.col("text").str.len_chars()
    split = pl.col("text").str.to_lowercase().str.replace_all(r"['`]s\b", " ").str.extract_all("[a-z0-9]+")
    rows = pl.DataFrame({"row": np.arange(len(texts)), "text": texts})
    other = rows.filter(~plain)
    found = pl.Series("gram", [folding.words_of(text) for text in other["text"]], pl.List(pl.String))
    listed = pl.concat([rows.filter(plain).select("row", gram=split), other.select("row", gram=found)])
    return listed.sort("row").explode("gram").drop_nulls("gram")


def grams_of(words: pl.DataFrame, size: int) -> pl.DataFrame:
    """Return the n-grams of `size` adjacent words of a text, joined with spaces; columns as in `words_of`."""
    following = [pl.col("gram").shift(-step) for step in range(size)]
    return words.select(
        "row",
        gram=pl.when(pl.col("row") == pl.col("row").shift(1 - size)).then(pl.concat_str(following, separator=" ")),
    ).drop_nulls("gram")


def spoken(text: str) -> list[str]:
    """Return the words of one text in lower case, as `words_of` does."""
    return words_of(pl.Series([text]))["gram"].to_list()


def keys_of(texts: Sequence[str]) -> np.ndarray:
    """Hash texts to uint64 [n] (BLAKE2b); the same on every machine, so that keys can be stored."""
    digests = b"".join(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def caption_keys(texts: pl.Series) -> np.ndarray:
    """Hash captions to uint64 [n]; captions that differ only in case share a key. `texts` has no nulls."""
    return keys_of(texts.str.to_lowercase().to_list())

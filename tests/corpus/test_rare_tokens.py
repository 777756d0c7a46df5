from __future__ import annotations

import numpy as np
import pyarrow as pa

from rag_clip.corpus.counts.statistics import count_corpus
from rag_clip.corpus.rare_tokens import rare_tokens

TEXTS = ["red flag", "red flag at sea", "a red sea", "", "flag, a red one"]


def table(texts):
    return pa.table({"text": texts, "file": ["a"] * len(texts), "row": range(len(texts))})


def test_one_rare_word_drops_the_caption(tmp_path):
    counts = count_corpus([table(TEXTS)], tmp_path / "counts")  # at 1, one 1; sea 2, a 2
    kept = rare_tokens(unigrams=counts.frequent(1, least=2), bigrams=None)(table(TEXTS))
    assert kept.selected["text"].to_pylist() == ["red flag", "a red sea", ""]
    assert (kept.reason, kept.score) == (("rare_token",) * 2, (1.0, 1.0))


def test_rare_pairs_count_too(tmp_path):
    counts = count_corpus([table(TEXTS)], tmp_path / "counts")  # "red flag" 2, "a red" 2, all others 1
    kept = rare_tokens(unigrams=counts.frequent(1, least=2), bigrams=counts.frequent(2, least=2))(table(TEXTS))
    assert kept.selected["text"].to_pylist() == ["red flag", ""]
    assert kept.score == (3.0, 1.0, 3.0)


def test_where_nothing_is_frequent_every_word_is_rare():
    kept = rare_tokens(unigrams=np.zeros(0, np.uint64), bigrams=None)(table(["red", ""]))
    assert (kept.selected["text"].to_pylist(), kept.score) == ([""], (1.0,))

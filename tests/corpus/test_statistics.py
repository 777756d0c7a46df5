from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import polars as pl
import pyarrow as pa
import pytest

from inputs.folders import SHARED
from rag_clip.corpus.clean import clean
from rag_clip.corpus.counts.statistics import CorpusCounts, Totals, count_corpus
from rag_clip.corpus.length import length
from rag_clip.corpus.steps import chain

REAL = SHARED / "data/captions"


def corpus(texts, file="a", **columns):
    return pa.table({"text": texts, "file": [file] * len(texts), "row": range(len(texts)), **columns})


def batches(table, size):
    return [table.slice(start, size) for start in range(0, table.num_rows, size)]


def naive(texts):
    """Count by splitting at spaces; the texts hold nothing but words and spaces."""
    words = [text.lower().split() for text in texts]
    unigrams = Counter(word for caption in words for word in caption)
    return unigrams, Counter(" ".join(pair) for caption in words for pair in pairwise(caption))


def sidecar_counts(sidecar, name):
    return dict(pl.read_parquet(sidecar / f"{name}.parquet").select("gram", "count").iter_rows())


@pytest.mark.parametrize("rows", [10, 150])
def test_counts_agree_with_a_naive_count_whatever_the_rows_held(tmp_path, rows):
    draw = random.Random(3)
    texts = [" ".join(draw.choices(["Red", "flag", "sea", "a", "of", "ÉTÉ"], k=draw.randint(1, 6))) for _ in range(60)]
    counts = count_corpus(batches(corpus(texts), 4), tmp_path / "counts", rows=rows)
    unigrams, bigrams = naive(texts)
    assert sidecar_counts(tmp_path / "counts", "unigrams") == dict(unigrams)
    assert sidecar_counts(tmp_path / "counts", "bigrams") == dict(bigrams)
    repeated = sum(count > 1 for count in Counter(text.lower() for text in texts).values())
    assert counts.totals == Totals(60, 60, len(unigrams), len(bigrams), repeated, None)


def test_words_and_pairs_are_looked_up_in_any_case(tmp_path):
    counts = count_corpus([corpus(["A red flag", "the Red flag, red sea"])], tmp_path / "counts")
    asked = ["red", "RED FLAG", "flag red", "kite", "sea"]
    assert counts.count(asked) == {"red": 3, "RED FLAG": 2, "flag red": 1, "kite": 0, "sea": 1}


def test_longer_phrases_are_sent_to_where_they_are_counted(tmp_path):
    counts = count_corpus([corpus(["a"])], tmp_path / "counts")
    with pytest.raises(ValueError, match="'a red flag' has 3 words; the sidecar counts 1 and 2, phrase_counts any"):
        counts.count(["a red flag"])


def test_captions_are_repaired_and_dropped_ones_not_counted(tmp_path):
    texts = ["caf&eacute; flag", None, "one two three", ""]
    counts = count_corpus([corpus(texts)], tmp_path / "counts", rules=chain([clean, length(max_words=2)]))
    assert counts.count(["one"]) == {"one": 0}
    counts = count_corpus([corpus(texts)], tmp_path / "counts")
    assert counts.count(["café", "one"]) == {"café": 1, "one": 1}
    assert (counts.totals.rows, counts.totals.captions) == (4, 2)


def test_the_vocabulary_reaches_down_to_the_count_of_its_last_ngram(tmp_path):
    counts = count_corpus([corpus(["a a a", "a b", "c"])], tmp_path / "counts")  # a 4, "a a" 2, b, c, "a b" 1
    assert [counts.least_count(size) for size in (1, 2, 3, 5, 6, 100)] == [4, 2, 1, 1, 1, 1]


def test_counts_open_again_and_a_new_count_replaces_them(tmp_path):
    count_corpus([corpus(["red"])], tmp_path / "counts")
    assert CorpusCounts(tmp_path / "counts").count(["red"]) == {"red": 1}
    count_corpus([corpus(["blue"])], tmp_path / "counts")
    assert CorpusCounts(tmp_path / "counts").count(["red", "blue"]) == {"red": 0, "blue": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["counts"]


def test_an_interrupted_count_leaves_the_earlier_one_and_nothing_beside_it(tmp_path):
    def cut_short():
        yield corpus(["blue"])
        raise KeyboardInterrupt

    count_corpus([corpus(["red"])], tmp_path / "counts")
    with pytest.raises(KeyboardInterrupt):
        count_corpus(cut_short(), tmp_path / "counts")
    assert CorpusCounts(tmp_path / "counts").count(["red", "blue"]) == {"red": 1, "blue": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["counts"]


def test_an_empty_corpus_has_counts(tmp_path):
    counts = count_corpus([], tmp_path / "counts", near=0.85)
    assert counts.totals == Totals(0, 0, 0, 0, 0, 0)
    assert counts.count(["red"]) == {"red": 0}


def test_a_folder_without_counts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no counts of a corpus; make them with count_corpus"):
        CorpusCounts(tmp_path)


@pytest.mark.parametrize("missing", ["file", "row"])
def test_records_say_where_they_come_from(tmp_path, missing):
    with pytest.raises(ValueError, match=f"no column '{missing}': the first of equal captions"):
        count_corpus([corpus(["a"]).drop_columns(missing)], tmp_path / "counts")


@pytest.mark.skipif(not REAL.exists(), reason="needs ../shared")
def test_real_captions_agree_with_a_naive_count(tmp_path):
    captions = pl.read_parquet(REAL / "coco_val2017.parquet")["caption"].head(3000)
    texts = captions.str.replace_all(r"[^A-Za-z ]", " ").str.replace_all(" +", " ").str.strip_chars().to_list()
    count_corpus(batches(corpus(texts), 512), tmp_path / "counts")
    unigrams, bigrams = naive(texts)
    assert sidecar_counts(tmp_path / "counts", "unigrams") == dict(unigrams)
    assert sidecar_counts(tmp_path / "counts", "bigrams") == dict(bigrams)

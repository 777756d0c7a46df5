from __future__ import annotations

import random

import numpy as np
import polars as pl
import pyarrow as pa

from rag_clip.corpus.counts.statistics import count_corpus
from rag_clip.corpus.near_duplicates import HASHES, band_keys, near_duplicates, rows_per_band, signatures

LONG = "the old red flag of the northern harbour hangs above the museum door on a rainy day in late november"


def table(texts):
    return pa.table({"text": texts, "file": ["a"] * len(texts), "row": range(len(texts))})


def test_the_share_of_equal_minima_estimates_the_jaccard_similarity():
    draw = random.Random(1)
    words = [f"w{number}" for number in range(40)]
    for _ in range(5):
        first = draw.sample(words, 20)
        second = first[: draw.randint(5, 18)] + draw.sample(words, 5)
        pairs = [{tuple(text[place : place + 2]) for place in range(len(text) - 1)} for text in (first, second)]
        jaccard = len(pairs[0] & pairs[1]) / len(pairs[0] | pairs[1])
        one, other = signatures(pl.Series([" ".join(first), " ".join(second)]))
        assert abs((one == other).mean() - jaccard) < 4 * np.sqrt(jaccard * (1 - jaccard) / HASHES) + 1e-9


def test_the_first_of_near_copies_stays_and_other_captions_do(tmp_path):
    texts = [
        "blue kite",
        LONG,
        f"{LONG} again",
        LONG.upper() + "!",
        "a red flag in the harbour",
        "...",
        "!!!",
        "kite",
        "Kite",
    ]
    counts = count_corpus([table(texts).slice(start, 2) for start in range(0, 9, 2)], tmp_path / "counts", near=0.85)
    assert counts.later is not None
    kept = near_duplicates(counts.later, counts.places)(table(texts))
    assert kept.dropped["text"].to_pylist() == [f"{LONG} again", LONG.upper() + "!", "Kite"]
    assert kept.reason == ("near_duplicate",) * 3


def test_keys_do_not_depend_on_the_batch():
    texts = pl.Series([LONG, "blue kite", "kite", LONG + " again"])
    apart = np.concatenate([band_keys(texts.slice(row, 1), similarity=0.8) for row in range(4)])
    assert np.array_equal(band_keys(texts, similarity=0.8), apart)


def test_more_rows_a_band_ask_for_more_similarity():
    assert [rows_per_band(similarity) for similarity in (0.2, 0.6, 0.85, 0.95)] == [4, 8, 16, 32]

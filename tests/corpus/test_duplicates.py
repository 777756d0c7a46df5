from __future__ import annotations

from itertools import islice, permutations

import pyarrow as pa
import pytest

from rag_clip.corpus.counts.statistics import count_corpus
from rag_clip.corpus.duplicates import duplicates
from rag_clip.corpus.shared_captions import shared_captions


def part(file, start, texts, **columns):
    return pa.table({"text": texts, "file": [file] * len(texts), "row": range(start, start + len(texts)), **columns})


PARTS = [
    part("b", 0, ["red flag", "kite"]),
    part("a", 7, ["Red Flag", "sea"]),
    part("a", 2, ["sea", "RED FLAG", "moon"]),
    part("c", 0, ["moon", "sun"]),
]


def outcome(step, tables):
    kept = [step(table) for table in tables]
    places = [(row["file"], row["row"], row["text"]) for one in kept for row in one.selected.to_pylist()]
    dropped = [row for one in kept for row in zip(one.dropped["text"].to_pylist(), one.score, strict=True)]
    return sorted(places), dropped


def test_the_first_file_and_row_stays_whatever_the_order_of_tables(tmp_path):
    expected = [("a", 2, "sea"), ("a", 3, "RED FLAG"), ("a", 4, "moon"), ("b", 1, "kite"), ("c", 1, "sun")]
    for order in islice(permutations(PARTS), 0, None, 4):
        counts = count_corpus(order, tmp_path / "counts", rows=8)
        selected, dropped = outcome(duplicates(counts.repeats, counts.places), order)
        assert selected == expected
        assert sorted(dropped) == [("Red Flag", 3.0), ("moon", 2.0), ("red flag", 3.0), ("sea", 2.0)]


def test_one_batch_or_many_drop_the_same_rows(tmp_path):
    counts = count_corpus(PARTS, tmp_path / "counts")
    step = duplicates(counts.repeats, counts.places)
    rows = [table.slice(row, 1) for table in PARTS for row in range(table.num_rows)]
    assert outcome(step, [pa.concat_tables(PARTS)])[0] == outcome(step, rows)[0]


def test_a_file_that_was_not_counted_is_refused(tmp_path):
    counts = count_corpus(PARTS, tmp_path / "counts")
    with pytest.raises(ValueError, match="'new' is not among the 3 files counted; count the corpus again"):
        duplicates(counts.repeats, counts.places)(part("new", 0, ["red flag"]))


def test_captions_of_more_images_than_allowed_are_all_dropped(tmp_path):
    texts = ["flag", "flag", "Flag", "kite", "kite", "sea"]
    table = part("a", 0, texts)
    counts = count_corpus([table], tmp_path / "counts")
    assert outcome(shared_captions(counts.repeats, max_images=3), [table])[1] == []
    kept = shared_captions(counts.repeats, max_images=2)(table)
    assert kept.selected["text"].to_pylist() == ["kite", "kite", "sea"]
    assert (kept.reason, kept.score) == (("shared",) * 3, (3.0,) * 3)


def test_rows_of_one_image_count_once(tmp_path):
    table = part("a", 0, ["flag"] * 4 + ["kite"] * 3, url=["x", "x", "x", "y", "p", None, None])
    counts = count_corpus([table], tmp_path / "counts")
    kept = shared_captions(counts.repeats, max_images=2)(table)
    assert (kept.dropped["text"].to_pylist(), kept.score) == (["kite"] * 3, (3.0,) * 3)

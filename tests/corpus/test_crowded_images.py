from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from rag_clip.corpus.cleaning import CleaningSettings, clean_with
from rag_clip.corpus.counts.statistics import CorpusCounts, count_corpus


def pairs(file: str, rows: Sequence[tuple[str, str | None]], **columns: Sequence[str | None]) -> pa.Table:
    """Records of (caption, address) rows."""
    texts, urls = zip(*rows, strict=True)
    return pa.table({"text": texts, "url": urls, "file": [file] * len(rows), "row": range(len(rows)), **columns})


TABLES = [
    pairs("a", [("one", "x"), ("two", "x"), ("Two", "x"), ("one", "y"), ("one", None), ("one", "")]),
    pairs("b", [("three", "x"), ("two", "y"), ("two", "y"), ("four", None), ("five", ""), ("six", None)]),
]


def outcome(table: pa.Table, counts: CorpusCounts, *, max_texts: int) -> list[tuple[str, str, str, float]]:
    kept = clean_with(CleaningSettings(max_texts=max_texts), counts=counts)(table)
    rows = kept.dropped.select(["text", "url"]).to_pylist()
    return [
        (row["text"], row["url"], reason, score)
        for row, reason, score in zip(rows, kept.reason, kept.score, strict=True)
    ]


def test_every_row_of_an_image_with_more_different_captions_than_allowed_is_dropped(tmp_path):
    counts = count_corpus(TABLES, tmp_path / "counts")
    expected = [(text, "x", "crowded", 3.0) for text in ("one", "two", "Two", "three")]
    assert outcome(pa.concat_tables(TABLES), counts, max_texts=2) == expected
    assert [row for table in TABLES for row in outcome(table, counts, max_texts=2)] == expected
    assert outcome(pa.concat_tables(TABLES), counts, max_texts=3) == []


def test_counting_in_small_pieces_finds_the_same(tmp_path):
    counts = count_corpus(TABLES[::-1], tmp_path / "counts", rows=2)
    assert [row[0] for row in outcome(pa.concat_tables(TABLES), counts, max_texts=2)] == ["one", "two", "Two", "three"]


def test_an_image_is_told_by_its_content_rather_than_by_its_address(tmp_path):
    rows = [("one", "x"), ("two", "y"), ("three", "z"), ("four", "z")]
    table = pairs("a", rows, sha256=["s", "s", "s", "t"])
    counts = count_corpus([table], tmp_path / "counts")
    assert [row[0] for row in outcome(table, counts, max_texts=2)] == ["one", "two", "three"]


def test_without_names_of_images_nothing_is_crowded(tmp_path):
    table = TABLES[0].drop_columns("url")
    counts = count_corpus([table], tmp_path / "counts")
    kept = clean_with(CleaningSettings(max_texts=1), counts=counts)(table)
    assert (kept.selected.num_rows, kept.reason) == (6, ())

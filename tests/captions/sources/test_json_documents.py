"""Captions in one JSON document: COCO, arrays of records, captions by key; what is none of them is refused."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from rag_clip.captions.sources.finding import Columns, SourceError, find_sources, read_source
from rag_clip.evaluation.rival_names import read_candidates

COCO = {
    "info": {"year": 2017},
    "licenses": [{"id": 1, "url": "http://license"}],
    "images": [
        {"id": 7, "file_name": "7.jpg", "coco_url": "http://x/7.jpg", "width": 640, "height": 480},
        {"id": 8, "file_name": "8.jpg", "coco_url": "http://x/8.jpg", "width": 500, "height": 333},
    ],
    "annotations": [
        {"id": 1, "image_id": 8, "caption": "a red flag"},
        {"id": 2, "image_id": 7, "caption": "été à la mer"},
        {"id": 3, "image_id": 9, "caption": "no image"},
        5,
    ],
}
CAPTIONS = [
    ("a red flag", "http://x/8.jpg", 500, 333, None),
    ("été à la mer", "http://x/7.jpg", 640, 480, None),
    ("no image", None, None, None, None),
    (None, None, None, None, "malformed"),
]


def write(folder: Path, document: Any, name: str = "c.json", **options: Any) -> Path:
    (folder / name).write_text(document if isinstance(document, str) else json.dumps(document, **options))
    return folder / name


def read(path: Path, columns: Columns = Columns(), start: int = 0) -> list[dict[str, Any]]:  # noqa: B008
    [source] = find_sources([path], columns=columns)
    return [row for batch in read_source(source, batch_rows=2, start=start) for row in batch.to_pylist()]


@pytest.mark.parametrize("document", [COCO, dict(reversed(COCO.items()))], ids=["in order", "annotations first"])
@pytest.mark.parametrize("indent", [None, 2])
def test_annotations_of_coco_are_captions_with_the_address_and_size_of_their_image(tmp_path, document, indent):
    path = write(tmp_path, document, indent=indent)
    (tmp_path / "d.json.gz").write_bytes(gzip.compress(path.read_bytes()))
    for given in (path, tmp_path / "d.json.gz"):
        rows = read(given)
        assert [tuple(row[name] for name in ("text", "url", "width", "height", "error")) for row in rows] == CAPTIONS
        assert [(row["row"], row["source"]) for row in rows] == [(place, given.name[0]) for place in range(4)]


@pytest.mark.parametrize(
    ("document", "rows"),
    [
        ([{"caption": "a"}, {"caption": None}, 3, {"caption": ["b", "c"]}], ["a", None, "malformed", "b", "c"]),
        (["a", "b"], ["a", "b"]),
        ({"1.jpg": ["a", "b"], "2.jpg": "c", "3.jpg": []}, ["a", "b", "c", None]),
        ({"images": [{"sentences": [{"raw": "a"}, {"raw": "b"}]}], "dataset": "coco"}, ["a", "b"]),
        ({"train": [{"caption": "a"}], "val": [{"caption": "b"}]}, ["a", "b"]),
        ({"1": {"caption": "a"}, "2": {"caption": "b"}}, ["a", "b"]),
        ({"version": 1, "data": [{"caption": "a"}, "x"]}, ["a"]),
        ('{"caption": "a"}\n\n{"caption": "b"}\n', ["a", "b"]),
        ('{"caption": "a"}\n', ["a"]),
        ('\ufeff [ {"caption": "\\ud800"}, {"caption" :"a"} ] \n', ["bad_encoding", "a"]),
    ],
)
def test_records_and_captions_by_key_are_rows(tmp_path, document, rows):
    for name in ("c.json", "c.txt") if isinstance(document, list) else ("c.json",):
        assert [row["error"] or row["text"] for row in read(write(tmp_path, document, name))] == rows


def test_the_column_of_captions_may_be_named_and_the_key_is_one(tmp_path):
    regions = [{"id": 1, "regions": [{"phrase": "a cat"}, {"phrase": "a hat"}]}]
    wanted = Columns(text="regions.phrase")
    assert [row["text"] for row in read(write(tmp_path, regions), wanted)] == ["a cat", "a hat"]
    path = write(tmp_path, {"http://x/1": ["a", "b"]})
    assert [row["url"] for row in read(path, Columns(url="key"))] == ["http://x/1"] * 2


@pytest.mark.parametrize(
    ("document", "kind", "reason"),
    [
        (
            {"caption": ["a"], "url": ["b"]},
            SourceError,
            "'caption' is a column or one record; known are an array of rec",
        ),
        ({"hidden_size": 1}, SourceError, "its members are of no known shape; known are an array of records"),
        ({"a": "x", "b": {"c": "y"}}, SourceError, "its members are of no known shape"),
        ([{"bbox": [1], "id": 1}], ValueError, r"no column that looks like captions; name it, one of: bbox"),
        ("5", SourceError, "it holds neither a JSON array nor a JSON object"),
        ("", SourceError, "it holds neither a JSON array nor a JSON object"),
        ("[] []", SourceError, "more follows the end of its JSON at character 3"),
        ('{"a" "b"}', SourceError, "breaks off, is malformed or has a value over 16 MiB at character 5"),
        ("[" * 200_000, SourceError, "recursion"),
        ([[1], 2, None], SourceError, r"none of its first 3 rows can be read, the first being malformed"),
    ],
)
def test_a_document_that_holds_no_captions_is_refused_with_the_reason(tmp_path, document, kind, reason):
    with pytest.raises(kind, match=reason):
        find_sources([write(tmp_path, document)])


@pytest.mark.parametrize("coco", [False, True])
def test_a_document_cut_short_gives_its_rows_before_the_cut(tmp_path, coco):
    records = [{"image_id": 1, "caption": f"caption {row}"} for row in range(5000)]
    text = json.dumps({"images": [{"id": 1}], "annotations": records} if coco else records)
    path = write(tmp_path, text[: len(text) // 2])
    [source] = find_sources([path])
    batches = read_source(source)
    texts = [row["text"] for row in next(batches).to_pylist()]
    with pytest.raises(SourceError, match=rf"from row {len(texts)} on: its JSON breaks off, is malformed or"):
        next(batches)
    assert texts == [f"caption {row}" for row in range(len(texts))]
    assert 2400 < len(texts) < 2600


def test_reading_goes_on_at_any_row(tmp_path):
    path = write(tmp_path, {f"{key}.jpg": [f"{key} {row}" for row in range(key % 4)] for key in range(300)})
    whole = read(path)
    assert [row["row"] for row in whole] == list(range(75 * (1 + 1 + 2 + 3)))
    for start in (1, 255, 257, 524, 525):
        assert read(path, start=start) == whole[start:]


def test_a_large_document_is_never_held_whole(tmp_path):
    text = json.dumps([{"caption": f"caption {row} " + "x" * 1000} for row in range(20_000)])
    [source] = find_sources([write(tmp_path, text)])
    size = len(text)
    del text
    tracemalloc.start()
    rows = sum(len(batch) for batch in read_source(source, batch_rows=100))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == 20_000
    assert peak < size / 8


def test_json_in_a_folder_counts_only_where_nothing_else_does(tmp_path):
    write(tmp_path, COCO, "captions.json")
    assert [Path(source.url).name for source in find_sources([tmp_path])] == ["captions.json"]
    (tmp_path / "c.txt").write_text("a red flag")
    assert [Path(source.url).name for source in find_sources([tmp_path])] == ["c.txt"]


def test_names_are_those_of_a_label_file_or_phrases_of_captions(tmp_path):
    captions = write(tmp_path, {"annotations": [{"image_id": 1, "caption": "a red flag"}] * 20}, "captions.json")
    labels = write(tmp_path, ["tench", "red flag"], "labels.json")
    wrong = write(tmp_path, {"hidden_size": 1.5}, "config.json")
    for bound in (1 << 24, 0):
        assert "red flag" in read_candidates(captions, large_bytes=bound).names
    assert read_candidates(labels).names == ("tench", "red flag")
    with pytest.raises(ValueError, match=r"config\.json"):
        read_candidates(wrong)

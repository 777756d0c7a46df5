"""What a look at a corpus tells before anything is embedded."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.folders import SHARED
from rag_clip.captions.sources.finding import Columns, find_sources
from rag_clip.captions.sources.preview import preview
from rag_clip.corpus.clean import clean

CAPTIONS = SHARED / "data/captions"


def test_rows_are_shown_from_every_file_with_what_becomes_of_them(tmp_path):
    pq.write_table(
        pa.table({"caption": ["cats &amp; dogs", "", "x" * 70_000], "title": ["a", "b", "c"]}), tmp_path / "a.parquet"
    )
    (tmp_path / "b.txt").write_text("a  red flag\nblue\n")
    sources = find_sources([tmp_path / "a.parquet", tmp_path / "b.txt"])
    seen = preview(sources, clean=clean, rows=4)
    first, second = (source.url for source in sources)
    assert seen.rows.to_pydict() == {
        "file": [first, second, first, second],
        "row": [0, 0, 1, 1],
        "text": ["cats &amp; dogs", "a  red flag", "", "blue"],
        "cleaned": ["cats & dogs", "a red flag", None, "blue"],
        "dropped": [None, None, "empty", None],
    }
    assert (seen.read, seen.kept, seen.dropped) == (5, 3, {"empty": 1, "oversized": 1})
    assert [(file.columns, file.candidates) for file in seen.files] == [
        (Columns(text="caption"), ("title",)),
        (Columns(text="text"), ()),
    ]
    assert seen.damaged == ()


def test_damage_is_told_beside_what_could_be_read(tmp_path):
    packed = gzip.compress("".join(f"caption {row * row}\n" for row in range(900)).encode())
    (tmp_path / "a.txt.gz").write_bytes(packed[:-20])
    [source] = find_sources([tmp_path / "a.txt.gz"])
    seen = preview([source], clean=clean)
    assert seen.read == seen.kept > 400
    assert seen.damaged == (
        f"{source.url} is damaged or cannot be read from row {seen.read} on: Truncated compressed stream",
    )


def test_a_look_at_many_files_opens_a_few_of_them_spread_over_the_corpus(tmp_path):
    for number in range(50):
        (tmp_path / f"{number:02}.txt").write_text(f"caption {number}\n" * 1500)
    seen = preview(find_sources([tmp_path]), clean=clean, rows=3)
    assert [Path(file.url).stem for file in seen.files[:4]] == ["00", "02", "05", "07"]
    assert (len(seen.files), seen.read, seen.rows.column("text").to_pylist()) == (
        20,
        20_000,
        ["caption 0", "caption 2", "caption 5"],
    )


def test_an_empty_file_shows_nothing(tmp_path):
    (tmp_path / "a.csv").write_text("caption,url\n")
    seen = preview(find_sources([tmp_path]), clean=clean)
    assert (seen.read, seen.kept, seen.dropped, seen.rows.num_rows) == (0, 0, {}, 0)


@pytest.mark.skipif(not CAPTIONS.exists(), reason="needs ../shared")
def test_real_captions_are_recognised_and_read():
    seen = preview(find_sources([CAPTIONS]), clean=clean)
    assert [(file.columns.text, file.rows, file.candidates) for file in seen.files] == [
        ("caption", 15833, ()),
        ("caption", 25014, ()),
        ("caption", 11000, ()),
    ]
    assert (seen.read, seen.rows.num_rows, seen.damaged) == (3000, 10, ())

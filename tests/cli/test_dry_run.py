"""What `index build --dry-run` shows, beside what the build then does."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.command_line import Outcome, run

CAPTIONS = ["a red flag at sea", "Click to enlarge", None, "a blue flag at sea", "a red flag at sea"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    table = pa.table({"title": ["x"] * 5, "alt": CAPTIONS, "image_url": [f"http://x/{row}" for row in range(5)]})
    pq.write_table(table, tmp_path / "web.parquet")
    return tmp_path


def build(folder: Path, *options: str) -> Outcome:
    return run("index", "build", "web.parquet", "--index", "index", "--model", "demo", *options, folder=folder)


def test_what_is_shown_is_what_the_build_does(folder: Path) -> None:
    shown = json.loads(build(folder, "--dry-run", "--json")[1])
    assert not (folder / "index").exists()
    built = json.loads(build(folder, "--json")[1])
    assert (shown["read"], shown["kept"], shown["dropped"]) == (built["read"], built["kept"], built["dropped"])
    assert (shown["files"], shown["not_shown"], shown["dropped"]) == (1, [], {"boilerplate": 1, "null": 1})


def test_columns_are_shown_and_the_rules_that_only_the_build_can_apply(folder: Path) -> None:
    lines = build(folder, "--dry-run", "--cleaning", "align")[1].splitlines()
    expected = "web.parquet: parquet; text: column 'alt'; source: 'web' for all rows; url: column 'image_url'"
    assert lines[0].endswith(f"{expected}; not used: title")
    assert lines[1] == "  row 0: 'a red flag at sea' -> a red flag at sea"
    assert lines[-2:] == [
        "not shown, because they need counts of the whole corpus: max_texts, vocabulary, max_images",
        "of the first 5 rows, 4 would be kept; dropped: {'null': 1}",
    ]


def test_a_dry_run_fails_where_the_build_would(folder: Path) -> None:
    (folder / "schema.toml").write_text("colour = 1\n")
    assert "unknown key 'colour'; known are " in build(folder, "--dry-run", "--schema", "schema.toml")[2]
    assert build(folder)[0] == 0
    for options in (("--cleaning", "none"), ("--cleaning", "none", "--dry-run")):
        code, shown, error = build(folder, *options)
        assert (code, shown) == (1, "")
        assert "the index at index were cleaned with other settings (max_words was 80, is None; " in error

"""The verb `index images` as its users meet it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from inputs.command_line import run
from inputs.photographs import photographs


def test_images_are_cleaned_by_the_preset_asked_for_and_info_shows_the_funnel(tmp_path: Path) -> None:
    images = [*photographs(3), b"broken"]
    captions = ["a red flag at sea", "flag", "a blue flag at sea", "a flag"]
    pq.write_table(pa.table({"image": images, "caption": captions}), tmp_path / "in.parquet")
    (tmp_path / "own.toml").write_text("[mine]\nmin_words = 2\n")
    options = ["--index", "index", "--model", "demo", "--workers", "0", "--cleaning", "own.toml:mine"]
    code, shown, _ = run("index", "images", "in.parquet", *options, folder=tmp_path)
    assert code == 3
    assert shown.splitlines()[:4] == [
        "2 images in index: 2 usable of 4 rows",
        "  failed, not an image of a known format: 1",
        "  all failed rows: index.shards/failed.parquet",
        "  dropped, few_words: 1",
    ]
    _, info, _ = run("index", "info", "index", folder=tmp_path)
    assert "funnel: 4 read, not an image of a known format 1, few_words 1, 2 kept\n" in info

"""`evaluate --segmentation`: masks against known masks, in Python and by the verb."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from inputs.command_line import run
from inputs.masks import LEFT, RIGHT, mask, write_masks
from rag_clip.pipelines.evaluate_masks import evaluate_masks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    truth = [mask(row, "boat", LEFT) for row in range(3)] + [mask(3, "mill", RIGHT), mask(4, "boat", LEFT)]
    write_masks(tmp_path / "truth.parquet", *truth)
    failed = mask(4, None, None) | {"error": "no image"}
    found = [mask(0, "boat", LEFT), mask(1, "boat", LEFT), mask(2, "gate", LEFT), mask(3, "mill", RIGHT)]
    write_masks(tmp_path / "found.parquet", *(each | {"error": None} for each in found), failed)
    return tmp_path


def test_the_mean_has_an_interval_over_images_and_each_class_its_number(folder: Path) -> None:
    # boat: 8 of 12 pixels; mill: all; background: all
    found, truth, output = (folder / name for name in ("found.parquet", "truth.parquet", "iou.parquet"))
    quality = evaluate_masks(found, truth, output=output)
    assert quality.iou == pytest.approx({"boat": 2 / 3, "mill": 1, "(background)": 1})
    assert quality.mean_iou == pytest.approx(8 / 9)
    assert (quality.images, quality.failed) == (4, 1)
    assert 0.5 < quality.low < quality.mean_iou < quality.high <= 1
    written = pq.read_table(output).to_pylist()
    assert (written[0]["measure"], written[0]["value"], written[0]["low"]) == (
        "mean_iou",
        quality.mean_iou,
        quality.low,
    )
    assert {row["label"]: row["value"] for row in written[1:]} == quality.iou
    assert evaluate_masks(found, truth, output=output) == quality  # it replaces what it wrote


def test_the_verb_prints_the_mean_and_the_lowest_classes(folder: Path) -> None:
    code, out, _ = run(
        "evaluate", "found.parquet", "--segmentation", "truth.parquet", "-o", "iou.parquet", folder=folder
    )
    assert code == 3  # an image failed
    assert "mean IoU 88.9%" in out
    assert "over 4 images, 1 failed, 3 classes, background included" in out
    assert out.index("boat") < out.index("mill")

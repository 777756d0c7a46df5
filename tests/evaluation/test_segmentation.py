"""Masks against known masks: numbers by hand, overlapping masks, and files that cannot be compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from inputs.masks import LEFT, RIGHT, mask
from inputs.masks import write_masks as write
from rag_clip.data import LabelSet
from rag_clip.evaluation.segmentation import BACKGROUND, compare_masks

LABELS = LabelSet(("boat", "mill"))


def test_two_images_have_their_numbers_by_hand(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.parquet", mask(0, "boat", LEFT), mask(0, "mill", RIGHT), mask(2, "boat", LEFT))
    whole = LEFT | RIGHT
    found = write(tmp_path / "found.parquet", mask(0, "boat", whole), mask(1, "mill", whole), mask(2, "mill", RIGHT))
    quality = compare_masks(found, truth, LABELS)
    # boat: 4 of 4 + 4 + 4; mill: 0 of 4 + 4; background: 0 of 4 + 4
    assert quality.iou == pytest.approx({"boat": 4 / 12, "mill": 0, BACKGROUND: 0})
    assert quality.mean_iou == pytest.approx(1 / 9)
    assert quality.images == 2
    assert compare_masks(truth, truth, LABELS).mean_iou == 1


def test_the_later_of_overlapping_masks_counts_and_failed_images_do_not(tmp_path: Path) -> None:
    both = write(
        tmp_path / "truth.parquet", mask(0, "mill", LEFT | RIGHT), mask(0, "boat", LEFT), mask(1, "boat", LEFT)
    )
    failed = {"row": 1, "label": None, "height": None, "width": None, "counts": None, "error": "no image"}
    found = write(tmp_path / "found.parquet", mask(0, "boat", LEFT) | {"error": None}, mask(0, "mill", RIGHT), failed)
    quality = compare_masks(found, both, LABELS)
    assert (quality.mean_iou, quality.images) == (1, 1)


def test_files_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    found = write(tmp_path / "found.parquet", mask(0, "boat", LEFT))
    other = write(tmp_path / "other.parquet", mask(0, "gate", LEFT))
    with pytest.raises(ValueError, match="has masks of 'gate', which is no class of the prompts"):
        compare_masks(found, other, LABELS)
    larger = write(tmp_path / "larger.parquet", mask(0, None, None) | {"height": 3})
    with pytest.raises(ValueError, match="image 0 has other sizes in the two files, 4 x 2 and 4 x 3 pixels"):
        compare_masks(found, larger, LABELS)
    with pytest.raises(ValueError, match="has the masks of none of these images"):
        compare_masks(found, write(tmp_path / "late.parquet", mask(9, "boat", LEFT)), LABELS)
    with pytest.raises(ValueError, match="has no column 'row'"):
        compare_masks(found, write(tmp_path / "bare.parquet", {"label": "boat"}), LABELS)
    with pytest.raises(ValueError, match="is not sorted by row"):
        compare_masks(
            write(tmp_path / "some.parquet", mask(0, "boat", LEFT), mask(2, "boat", LEFT)),
            write(tmp_path / "mixed.parquet", mask(1, "boat", LEFT), mask(0, "boat", LEFT)),
            LABELS,
        )
    with pytest.raises(ValueError, match="the mask of 'boat' in image 0: the runs do not fill"):
        compare_masks(found, write(tmp_path / "short.parquet", mask(0, "boat", LEFT) | {"counts": "1"}), LABELS)
    (tmp_path / "text.parquet").write_text("no Parquet")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        compare_masks(found, tmp_path / "text.parquet", LABELS)

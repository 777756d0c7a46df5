"""Mean intersection over union, by hand."""

from __future__ import annotations

import pytest
import torch

from rag_clip.metrics.segmentation import overlap

TRUTH = torch.tensor([[0, 0, 1], [2, 2, 1]])
PREDICTED = torch.tensor([[0, 1, 1], [2, 0, 3]])


def test_a_small_image_has_its_numbers_by_hand() -> None:
    counts = overlap(PREDICTED, TRUTH, classes=5)
    assert counts.intersection.tolist() == [1, 1, 1, 0, 0]
    assert counts.iou[:4].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 2, 0])
    assert counts.iou[4].isnan()
    assert counts.present.tolist() == [True, True, True, False, False]
    assert counts.mean_iou == pytest.approx((1 / 3 + 1 / 3 + 1 / 2) / 3)


def test_images_are_summed_before_the_ratio() -> None:
    both = overlap(PREDICTED, TRUTH, classes=4) + overlap(TRUTH, TRUTH, classes=4)
    assert both.iou.tolist() == pytest.approx([3 / 5, 3 / 5, 3 / 4, 0])


def test_a_perfect_prediction_is_one_and_unlabelled_pixels_do_not_count() -> None:
    assert overlap(TRUTH, TRUTH, classes=3).mean_iou == 1
    partly = TRUTH.masked_fill(PREDICTED != TRUTH, -1)
    assert overlap(PREDICTED, partly, classes=4).mean_iou == 1


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(2, 3\)"):
        overlap(PREDICTED[0], TRUTH, classes=4)
    with pytest.raises(ValueError, match="classes go from 0 to 3; there are 3"):
        overlap(PREDICTED, TRUTH, classes=3)
    with pytest.raises(ValueError, match="no pixel of the truth"):
        _ = overlap(TRUTH, torch.full_like(TRUTH, -1), classes=3).mean_iou

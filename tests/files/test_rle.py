"""COCO's run-length encoding: texts by hand, and masks of every kind back again."""

from __future__ import annotations

import numpy as np
import pytest

from rag_clip.files.rle import decode_mask, encode_mask


def test_texts_are_those_of_coco_by_hand() -> None:
    # columns 0 1, 1 1, 0 0: runs 1, 3, 2; the fourth run would be written as a difference
    assert encode_mask(np.array([[0, 1, 0], [1, 1, 0]], bool)) == "132"
    # columns 1 0, 0 1: runs 0, 1, 2, 1, and the fourth is written as 1 - 1
    assert encode_mask(np.array([[1, 0], [0, 1]], bool)) == "0120"
    # 100 = 4 + 3 * 32: "4" and more follow, then 3
    assert encode_mask(np.zeros((10, 10), bool)) == chr(4 + 32 + 48) + "3"


@pytest.mark.parametrize("seed", range(6))
def test_masks_come_back(seed: int) -> None:
    draw = np.random.default_rng(seed)
    size = tuple(int(side) for side in draw.integers(1, 80, size=2))
    mask = draw.random(size) < (0.02, 0.3, 0.9)[seed % 3]
    if seed > 3:
        mask = np.zeros(size, bool) if seed == 4 else np.ones(size, bool)
    assert np.array_equal(decode_mask(encode_mask(mask), (size[0], size[1])), mask)


@pytest.mark.parametrize("counts", ["", "13", "1320", "o"])
def test_runs_that_do_not_fill_the_image_are_refused(counts: str) -> None:
    with pytest.raises(ValueError, match="do not fill a mask of 2 x 3 pixels"):
        decode_mask(counts, (2, 3))

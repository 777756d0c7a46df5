"""The best class of each pixel: by hand, against interpolation of all classes, and the two kinds of background."""

from __future__ import annotations

import pytest
import torch

from rag_clip.classifiers import segmentation
from rag_clip.classifiers.segmentation import BACKGROUND, enlarge, segment

MAPS = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])


def test_halves_of_an_image_have_their_classes() -> None:
    found = segment(MAPS, size=(2, 4))
    assert found.classes.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]
    assert found.values.tolist() == [[1.0, 0.75, 0.75, 1.0]] * 2


def test_uncertain_pixels_and_texts_of_the_background_are_background() -> None:
    assert segment(MAPS, size=(1, 4), threshold=0.8).classes.tolist() == [[0, BACKGROUND, BACKGROUND, 1]]
    assert segment(MAPS, size=(1, 4), classes=1).classes.tolist() == [[0, 0, BACKGROUND, BACKGROUND]]


def test_blocks_of_texts_give_the_same_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.rand(9, 3, 4)
    maps[5] = maps[2]
    whole = enlarge(maps, (13, 17)).max(0)
    monkeypatch.setattr(segmentation, "VALUES_AT_ONCE", 2 * 13 * 17)
    found = segment(maps, size=(13, 17))
    assert torch.equal(found.classes, whole.indices)
    assert torch.allclose(found.values, whole.values)
    assert 5 not in found.classes.unique().tolist()


def test_pixels_of_the_grid_keep_their_cosines() -> None:
    maps = torch.rand(3, 5, 4)
    assert torch.equal(segment(maps, size=(5, 4)).classes, maps.argmax(0))

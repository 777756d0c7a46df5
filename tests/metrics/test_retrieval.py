"""Recall at k of image-text retrieval, by hand, on ties, and on genuine CLIP pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from inputs.folders import ROOT
from rag_clip.metrics.retrieval import retrieval

PAIRS = ROOT.parent / "shared" / "data" / "features" / "coco_val2017_250_CLIP_ViTB16.npz"


def test_several_captions_an_image_by_hand() -> None:
    images = torch.eye(3)
    captions = normalize(torch.tensor([[1.0, 0.9, 0], [0.9, 1, 0], [0, 1.0, 0.2], [0, 0.3, 1]]), dim=1)
    found = retrieval(images, captions, torch.tensor([0, 0, 1, 2]), ks=(1, 2))
    # image 0 has caption 0 first; image 1 has captions 2, 1, 0; image 2 has caption 3
    assert found.images[1].tolist() == [1, 1, 1]
    # caption 1 is nearer to image 1 than to its own
    assert found.captions[1].tolist() == [1, 0, 1, 1]
    assert found.captions[2].tolist() == [1, 1, 1, 1]
    assert found.mean_recall == pytest.approx((1 + 1 + 0.75 + 1) / 4)


def test_equal_scores_count_by_their_chance() -> None:
    same = torch.ones(4, 1)
    found = retrieval(same, same, torch.arange(4), ks=(1, 2, 4))
    for recall in (found.images, found.captions):
        assert [recall[k].tolist() for k in (1, 2, 4)] == [[0.25] * 4, [0.5] * 4, [1.0] * 4]
    two = retrieval(torch.ones(2, 1), torch.ones(4, 1), torch.tensor([0, 0, 1, 1]), ks=(1, 2))
    assert two.images[1].tolist() == [0.5, 0.5]
    assert two.images[2] == pytest.approx([1 - 1 / 6] * 2)


def test_the_order_of_rows_does_not_matter() -> None:
    draw = torch.Generator().manual_seed(0)
    images, captions = (normalize(torch.randn(n, 8, generator=draw), dim=1) for n in (20, 60))
    owners = torch.arange(60) % 20
    order = torch.randperm(60, generator=draw)
    first, second = retrieval(images, captions, owners), retrieval(images, captions[order], owners[order])
    assert first.mean_recall == second.mean_recall
    assert np.array_equal(first.captions[5][order.numpy()], second.captions[5])


def test_what_cannot_be_ranked_is_refused() -> None:
    rows = torch.eye(3)
    with pytest.raises(ValueError, match="1 images have no caption"):
        retrieval(rows, rows, torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="rows of one width"):
        retrieval(rows, torch.ones(3, 2), torch.arange(3))
    with pytest.raises(ValueError, match="owners are rows of the 3 images"):
        retrieval(rows, rows, torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match="not finite"):
        retrieval(rows * torch.nan, rows, torch.arange(3))
    with pytest.raises(ValueError, match="ranks from 1 up"):
        retrieval(rows, rows, torch.arange(3), ks=(0,))


@pytest.mark.skipif(not PAIRS.exists(), reason="needs ../shared")
def test_genuine_clip_pairs_have_the_recorded_recall() -> None:
    with np.load(PAIRS) as file:
        images, captions = (torch.from_numpy(file[name]).float() for name in ("image", "caption_feature"))
    found = retrieval(images, captions, torch.arange(250))
    recalls = [[round(float(side[k].mean()), 3) for k in (1, 5, 10)] for side in (found.images, found.captions)]
    assert recalls == [[0.6, 0.856, 0.936], [0.596, 0.864, 0.928]]

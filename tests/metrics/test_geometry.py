"""Margins, alignment and uniformity by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rag_clip.metrics.accuracy import is_right
from rag_clip.metrics.geometry import alignment, margins, uniformity


def test_margins_fall_as_names_are_added() -> None:
    logits, targets = torch.tensor([[5.0, 3, 6], [1, 4, 0], [2, 1, 2.5]]), torch.tensor([0, 1, 2])
    found = margins(logits, targets, torch.tensor([0, 0, 1]))
    assert found.first.tolist() == [2.0, 3.0, math.inf]
    assert found.last.tolist() == [-1.0, 3.0, 0.5]
    assert (found.last > 0).tolist() == is_right(logits, targets).tolist()


def test_alignment_is_the_mean_squared_distance_to_the_own_class() -> None:
    features, classes = torch.tensor([[1.0, 0], [0, 1], [1, 0]]), torch.eye(2)
    assert alignment(features, torch.tensor([0, 1, 1]), classes) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="n at least 1"):
        alignment(features[:0], torch.zeros(0, dtype=torch.int64), classes)


def test_uniformity_is_the_log_mean_kernel_of_different_rows() -> None:
    assert uniformity(torch.eye(3)) == pytest.approx(-4.0)
    assert uniformity(torch.ones(4, 1)) == pytest.approx(0.0)
    rows = torch.tensor([[1.0, 0], [-1, 0], [0, 1]])
    assert uniformity(rows) == pytest.approx(math.log((math.exp(-8) + 2 * math.exp(-4)) / 3))
    with pytest.raises(ValueError, match="at least two"):
        uniformity(rows[:1])


def test_uniformity_by_blocks_is_that_of_all_pairs() -> None:
    rows = torch.nn.functional.normalize(torch.randn(10, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    whole = uniformity(rows)
    assert whole == pytest.approx(float((-2 * torch.nn.functional.pdist(rows.double()).square()).exp().mean().log()))
    assert uniformity(rows, block=3) == pytest.approx(whole)

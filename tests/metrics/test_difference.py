"""Paired differences of two runs, and scipy's exact test."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest

from rag_clip.metrics.difference import paired_difference, sign_probability


def test_two_runs_differ_by_the_images_that_changed_sides() -> None:
    first = torch.tensor([True] * 60 + [False] * 40)
    second = torch.tensor([True] * 55 + [False] * 5 + [True] * 15 + [False] * 25)
    found = paired_difference(first, second)
    assert (found.value, found.gained, found.lost) == (pytest.approx(0.1), 15, 5)
    assert 0 < found.low < 0.1 < found.high < 0.2
    assert found.probability == pytest.approx(binomtest(5, 20).pvalue)


def test_runs_of_several_draws_differ_by_their_shares_right() -> None:
    first, second = torch.tensor([0.0, 1, 1, 0.5]), torch.tensor([1 / 3, 2 / 3, 1, 1])
    found = paired_difference(first, second)
    assert (found.value, found.gained, found.lost) == (pytest.approx(0.125), 2, 1)
    assert found.probability == 1.0
    assert paired_difference(first, second > 0.5) == paired_difference(first, (second > 0.5).double())


def test_a_run_does_not_differ_from_itself() -> None:
    run = torch.tensor([True, False, True])
    found = paired_difference(run, run)
    assert (found.value, found.low, found.high, found.probability) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (3, 3), (40, 12), (900, 1000), (0, 3000)])
def test_the_sign_test_agrees_with_scipy(gained: int, lost: int) -> None:
    assert sign_probability(gained, lost) == pytest.approx(binomtest(gained, gained + lost).pvalue, rel=1e-9)


def test_runs_of_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="same images in the same order"):
        paired_difference(torch.ones(2, dtype=torch.bool), torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"second run has 1\.5 in row 1"):
        paired_difference(torch.ones(2), torch.tensor([0.5, 1.5]))
    with pytest.raises(ValueError, match="first run has nan in row 0"):
        paired_difference(torch.tensor([float("nan")]), torch.ones(1))

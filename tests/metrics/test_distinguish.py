"""Distinguishability: the measures by hand, in float64, in blocks, and at their limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from inputs.number_checks import near
from rag_clip.data import LabelSet
from rag_clip.metrics.distinguish import ClassPair, Distinguishability, PairShift, distinguishability, separation


def names(count: int) -> LabelSet:
    return LabelSet(tuple(f"class {row}" for row in range(count)))


def unit_rows(count: int, width: int, seed: int) -> torch.Tensor:
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def equation(weights: np.ndarray, scale: float) -> tuple[float, float]:
    """Uniformity and confusion, a pair at a time in float64."""
    count = len(weights)
    others = [(a, b) for a in range(count) for b in range(count) if a != b]
    uniformity = math.log(np.mean([math.exp(-2 * np.sum((weights[a] - weights[b]) ** 2)) for a, b in others]))
    raised = np.exp(scale * (weights @ weights.T - 1))
    return uniformity, float(np.mean(1 - raised.diagonal() / raised.sum(1)))


def test_two_orthogonal_classes_and_a_mean_of_them_by_hand():
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    found = distinguishability(weights, 2.0, names(3))
    uniformity = math.log((math.exp(-4) + math.exp(-1.6) + math.exp(-0.8)) / 3)
    e = {cosine: math.exp(2 * cosine) for cosine in (0.0, 0.6, 0.8, 1.0)}
    kept = [e[1] / (e[1] + e[0] + e[0.6]), e[1] / (e[1] + e[0] + e[0.8]), e[1] / (e[1] + e[0.6] + e[0.8])]
    assert (found.uniformity, found.confusion) == pytest.approx((uniformity, 1 - sum(kept) / 3))
    assert [(pair.first, pair.second) for pair in found.closest] == [
        ("class 1", "class 2"),
        ("class 0", "class 2"),
        ("class 0", "class 1"),
    ]
    assert [pair.cosine for pair in found.closest] == pytest.approx([0.8, 0.6, 0.0])


def test_measures_equal_the_equation_in_float64():
    weights = unit_rows(40, 16, seed=1)
    found = distinguishability(weights, 30.0, names(40))
    assert (found.uniformity, found.confusion) == pytest.approx(equation(weights.double().numpy(), 30.0), rel=1e-4)


def test_blocks_give_what_the_whole_matrix_gives():
    before, after = unit_rows(30, 8, seed=2), unit_rows(30, 8, seed=3)
    whole = distinguishability(before, 10.0, names(30)), separation(before, after, names(30))
    blocks = distinguishability(before, 10.0, names(30), cells=100), separation(before, after, names(30), cells=100)
    assert blocks[0].uniformity == pytest.approx(whole[0].uniformity)
    assert blocks[0].confusion == pytest.approx(whole[0].confusion)
    for name in ("first", "second"):
        assert [getattr(pair, name) for pair in blocks[0].closest] == [getattr(pair, name) for pair in whole[0].closest]
        for end in ("most", "least"):
            expected = [getattr(pair, name) for pair in getattr(whole[1], end)]
            assert [getattr(pair, name) for pair in getattr(blocks[1], end)] == expected


def test_confusion_that_is_tiny_is_not_lost_in_rounding():
    found = distinguishability(torch.eye(2), 40.0, names(2))
    assert found.confusion == pytest.approx(math.exp(-40), rel=1e-5)


def test_equal_classes_are_confused_by_half_and_a_single_class_never():
    same = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    found = distinguishability(same, 100.0, names(2))
    assert (found.uniformity, found.confusion) == pytest.approx((0.0, 0.5), abs=1e-5)
    assert found.closest == (ClassPair("class 0", "class 1", 1.0),)
    assert distinguishability(same[:1], 100.0, names(1)) == Distinguishability(None, 0.0, ())


def test_a_larger_scale_confuses_less():
    weights = unit_rows(20, 8, seed=4)
    confusions = [distinguishability(weights, scale, names(20)).confusion for scale in (1.0, 10.0, 100.0)]
    assert confusions == sorted(confusions, reverse=True)


def test_only_the_number_of_pairs_asked_for_is_named():
    weights = unit_rows(20, 8, seed=4)
    every = distinguishability(weights, 10.0, names(20), pairs=190).closest
    assert len(every) == 190
    assert distinguishability(weights, 10.0, names(20), pairs=3).closest == every[:3]


def test_pairs_are_ranked_by_what_their_cosine_became():
    before = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    after = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    found = separation(before, after, names(3), pairs=1)
    moved = found.most[0], found.least[0]
    assert [(pair.first, pair.second) for pair in moved] == [("class 0", "class 1"), ("class 1", "class 2")]
    assert [(pair.before, pair.after, pair.change) for pair in moved] == [
        pytest.approx((0.8, 0.6, -0.2)),
        pytest.approx((0.6, 0.8, 0.2)),
    ]
    assert (found.pairs, found.apart) == (3, 1)
    assert found.mean_change == pytest.approx(0.0, abs=1e-7)


def test_pairs_that_are_never_close_are_left_out():
    crowds = torch.eye(2).repeat_interleave(7, dim=0)
    weights = torch.nn.functional.normalize(torch.cat([3 * crowds, unit_rows(14, 8, seed=6)], dim=1), dim=1)
    found = separation(weights, weights, names(14), pairs=1000)
    within = {
        (f"class {a}", f"class {b}") for start in (0, 7) for b in range(start, start + 7) for a in range(start, b)
    }
    pairs = {(pair.first, pair.second) for pair in found.most}
    assert pairs <= within
    assert found.pairs == len(found.most) == len(pairs) >= 14 * 5 / 2


def test_unchanged_weights_separate_nothing_and_a_single_class_has_no_pair():
    weights = unit_rows(2, 8, seed=5)
    cosine = float(weights[0] @ weights[1])
    unchanged = separation(weights, weights, names(2))
    assert (unchanged.pairs, unchanged.apart, unchanged.mean_change) == (1, 0, 0.0)
    assert unchanged.most == unchanged.least
    assert unchanged.most == (PairShift("class 0", "class 1", near(cosine), near(cosine), 0.0),)
    alone = separation(weights[:1], weights[:1], names(1))
    assert (alone.pairs, alone.most, alone.least) == (0, (), ())


def test_rows_that_are_not_one_per_label_are_refused():
    with pytest.raises(ValueError, match=r"class weights \(3, 2\) for 2 labels"):
        distinguishability(torch.ones(3, 2), 1.0, names(2))
    with pytest.raises(ValueError, match=r"class weights \(3, 2\) for 2 labels"):
        separation(torch.ones(2, 2), torch.ones(3, 2), names(2))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_a_scale_that_is_not_above_zero_is_refused(scale: float):
    with pytest.raises(ValueError, match="give the encoder's"):
        distinguishability(torch.eye(2), scale, names(2))

"""Calibration, Brier score and risk-coverage: by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import foldnorm
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from rag_clip.metrics.accuracy import is_right
from rag_clip.metrics.calibration import (
    brier_score,
    brier_scores,
    calibration_error,
    calibration_interval,
    confidence_of,
    reliability,
    risk_coverage,
    risk_interval,
)
from rag_clip.metrics.uncertainty import Interval, bootstrap


def noise() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    targets = torch.randint(4, (500,), generator=draw)
    return 2 * torch.randn(500, 4, generator=draw) + torch.nn.functional.one_hot(targets, 4), targets


def test_calibration_error_by_hand() -> None:
    logits = torch.tensor([[0.85, 0.15], [0.85, 0.15], [0.55, 0.45], [0.55, 0.45]]).log()
    table = reliability(logits, torch.tensor([0, 1, 0, 0]), bins=10)
    assert table.images.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 2, 0]
    assert table.accuracy[[5, 8]].tolist() == [1.0, 0.5]
    assert table.confidence[[5, 8]].tolist() == pytest.approx([0.55, 0.85], abs=1e-6)
    assert table.error == pytest.approx((0.45 + 0.35) / 2, abs=1e-6)


def test_the_reliability_diagram_agrees_with_scikit_learn() -> None:
    logits, targets = noise()
    table = reliability(logits, targets, bins=10)
    confidence, right = confidence_of(logits).numpy(), is_right(logits, targets).numpy()
    accuracy, mean = calibration_curve(right, confidence, n_bins=10)
    filled = table.images > 0
    assert table.accuracy[filled].numpy() == pytest.approx(accuracy)
    assert table.confidence[filled].numpy() == pytest.approx(mean)
    shares = np.histogram(confidence, bins=10, range=(0, 1))[0][filled.numpy()] / 500
    assert calibration_error(logits, targets, bins=10) == pytest.approx(float((shares * abs(accuracy - mean)).sum()))


def test_the_brier_score_agrees_with_scikit_learn() -> None:
    logits, targets = noise()
    probabilities = logits.double().softmax(1).numpy()
    expected = sum(reference.brier_score_loss(targets.numpy() == k, probabilities[:, k]) for k in range(4))
    assert brier_score(logits, targets) == pytest.approx(expected)
    many = brier_scores(logits.repeat(9, 1), targets.repeat(9)), confidence_of(logits.repeat(9, 1))
    assert torch.equal(many[0], brier_scores(logits, targets).repeat(9))
    assert torch.equal(many[1], confidence_of(logits).repeat(9))


def test_the_brier_score_of_an_image_by_hand() -> None:
    logits = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]]).log()
    scores = brier_scores(logits, torch.tensor([0, 2]))
    assert scores.tolist() == pytest.approx([0.3**2 + 0.2**2 + 0.1**2, 0.7**2 + 0.2**2 + 0.9**2], abs=1e-6)


@pytest.mark.parametrize(("lost", "truth"), [(0.0, 0.0), (0.04, 0.04), (0.2, 0.2)], ids=["calibrated", "near", "far"])
def test_the_interval_of_the_calibration_error_covers_the_truth(lost: float, truth: float) -> None:
    draw, covered = torch.Generator().manual_seed(0), 0
    for _ in range(120):
        confidence = 0.3 + 0.7 * torch.rand(400, generator=draw)
        right = torch.rand(400, generator=draw) < confidence - lost
        interval = calibration_interval(confidence, right, draws=300)
        covered += interval.low <= truth <= interval.high
    assert covered >= 0.9 * 120


def exact_ends(counts: list[int], right: list[int], levels: list[float]) -> list[float]:
    """Find the ends for two bins of one confidence each, where the sum of two folded normals is an integral."""
    total = sum(counts)
    gaps = [hits / total - count * level / total for count, hits, level in zip(counts, right, levels, strict=True)]
    squares = [
        (hits * (1 - level) ** 2 + (count - hits) * level**2) / total
        for count, hits, level in zip(counts, right, levels, strict=True)
    ]
    found, variances = np.abs(gaps), (np.array(squares) - np.square(gaps)) / total
    deviations, value = np.sqrt(variances), found.sum()
    first, steps = np.linspace(0, value, 4001), value / 4000

    def true_gaps(by: float) -> np.ndarray:
        return np.maximum(found - by * variances, 0)

    def below(by: float) -> float:
        ratios = true_gaps(by) / deviations
        density = foldnorm.pdf(first, ratios[0], scale=deviations[0])
        return float((density * foldnorm.cdf(value - first, ratios[1], scale=deviations[1])).sum() * steps)

    def error(share: float, end: float) -> float:
        return float(true_gaps(brentq(lambda by: below(by) - share, end, 0)).sum())

    vanished = max(found / variances)
    low = 0.0 if below(vanished) < 0.975 else error(0.975, vanished)
    return [low, error(0.025, -6 / np.sqrt(variances.sum()))]


@pytest.mark.parametrize(("counts", "right"), [([100, 300], [50, 268]), ([10, 300], [8, 268])])
def test_the_interval_of_the_calibration_error_is_that_of_folded_normals(counts: list[int], right: list[int]) -> None:
    sizes = torch.tensor(counts)
    confidence = torch.tensor([0.3, 0.9]).double().repeat_interleave(sizes)
    place = torch.cat([torch.arange(count) for count in counts])
    found = calibration_interval(confidence, place < torch.tensor(right).repeat_interleave(sizes), draws=8000)
    assert [found.low, found.high] == pytest.approx(exact_ends(counts, right, [0.3, 0.9]), abs=0.0015)


def test_the_percentiles_of_a_plain_bootstrap_miss_a_calibration_error_of_zero() -> None:
    draw = torch.Generator().manual_seed(0)
    confidence = 0.5 + 0.49 * torch.rand(400, generator=draw)
    targets = (torch.rand(400, generator=draw) > confidence).long()
    logits = torch.stack([confidence, 1 - confidence], dim=1).log()
    (plain,) = bootstrap(lambda rows: [calibration_error(logits[rows], targets[rows])], 400)
    assert plain.low > 0.01
    assert calibration_interval(confidence, targets == 0).low == 0.0


def test_the_interval_is_that_of_the_same_error_and_narrows_with_images() -> None:
    logits, targets = noise()
    confidence, right = confidence_of(logits), is_right(logits, targets)
    found, more = (calibration_interval(confidence.repeat(k), right.repeat(k)) for k in (1, 16))
    assert found.value == pytest.approx(calibration_error(logits, targets))
    assert found.low < more.low < more.value < more.high < found.high
    assert calibration_interval(confidence, right, seed=0) == found


def test_gaps_that_cannot_vary_have_no_interval() -> None:
    sure = torch.ones(30)
    assert calibration_interval(sure, torch.ones(30, dtype=torch.bool)) == Interval(0.0, 0.0, 0.0)
    assert calibration_interval(sure, torch.zeros(30, dtype=torch.bool)) == Interval(1.0, 1.0, 1.0)


def test_risk_follows_the_surest_first() -> None:
    curve = risk_coverage(torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([True, False, True, True]))
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4])
    assert curve.area == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 4)


def test_images_of_one_confidence_share_their_errors() -> None:
    curve = risk_coverage(torch.full((4,), 0.5), torch.tensor([False, True, True, True]))
    assert curve.risk.tolist() == [0.25] * 4
    assert curve.area == 0.25


@pytest.mark.parametrize("levels", [0, 8], ids=["no ties", "ties"])
def test_the_area_has_the_interval_of_its_bootstrap(levels: int) -> None:
    logits, targets = noise()
    confidence, right = confidence_of(logits), is_right(logits, targets)
    confidence = (confidence * levels).ceil() / levels if levels else confidence
    found = risk_interval(confidence, right)
    (expected,) = bootstrap(lambda rows: [risk_coverage(confidence[rows], right[rows]).area], 500)
    assert found.value == pytest.approx(risk_coverage(confidence, right).area)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.low < found.value < found.high


def test_what_cannot_be_calibrated_is_refused() -> None:
    with pytest.raises(ValueError, match="bins is 0"):
        calibration_error(torch.ones(1, 2), torch.tensor([0]), bins=0)
    with pytest.raises(ValueError, match="row 0 of the logits"):
        brier_score(torch.tensor([[float("inf"), 0]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="bins is 15, draws 0, coverage"):
        calibration_interval(torch.ones(2), torch.tensor([True, False]), draws=0)
    for measure in (risk_coverage, risk_interval, calibration_interval):
        with pytest.raises(ValueError, match="give one each"):
            measure(torch.ones(2), torch.tensor([True]))
    with pytest.raises(ValueError, match="confidence of row 1"):
        risk_coverage(torch.tensor([0.5, float("nan")]), torch.tensor([True, False]))

"""Calibration, Brier score and risk-coverage: by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from rag_clip.evaluate.calibration import brier_score, calibration_error, confidence_of, reliability, risk_coverage
from rag_clip.evaluate.metrics import is_right


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


def test_risk_follows_the_surest_first() -> None:
    curve = risk_coverage(torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([True, False, True, True]))
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4])
    assert curve.area == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 4)


def test_images_of_one_confidence_share_their_errors() -> None:
    curve = risk_coverage(torch.full((4,), 0.5), torch.tensor([False, True, True, True]))
    assert curve.risk.tolist() == [0.25] * 4
    assert curve.area == 0.25


def test_what_cannot_be_calibrated_is_refused() -> None:
    with pytest.raises(ValueError, match="bins is 0"):
        calibration_error(torch.ones(1, 2), torch.tensor([0]), bins=0)
    with pytest.raises(ValueError, match="row 0 of the logits"):
        brier_score(torch.tensor([[float("inf"), 0]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="give one each"):
        risk_coverage(torch.ones(2), torch.tensor([True]))
    with pytest.raises(ValueError, match="confidence of row 1"):
        risk_coverage(torch.tensor([0.5, float("nan")]), torch.tensor([True, False]))

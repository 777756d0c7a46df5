"""SLIP: a number by hand, its limit, an independent formulation, and resuming."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from inputs.objectives import build, check_objective, check_resumed, equal_losses
from rag_clip.training.objectives.clip import Clip
from rag_clip.training.objectives.slip import Slip, simclr

SMALL = Slip(hidden=32, width=16)


def test_it_keeps_the_contract() -> None:
    check_objective(SMALL)
    check_objective(Slip(hidden=32, width=16, weight=0))


def test_the_loss_between_views_has_its_number_by_hand() -> None:
    first = torch.eye(2, dtype=torch.float64)
    second = normalize(torch.tensor([[1, 0.2], [0.2, 1]], dtype=torch.float64), dim=-1)
    assert float(simclr(first, second, temperature=0.1)) == pytest.approx(0.001708, abs=1e-6)


def test_without_weight_it_is_clip_bit_for_bit() -> None:
    assert equal_losses(Slip(weight=0), Clip())


def test_views_agree_as_simclr_writes_it() -> None:
    """By the 2n rows of both views, each with one positive and 2n - 2 negatives (Chen et al., 2020)."""
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(2, 5, 7))
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    both = rows.reshape(10, 7)
    scores = np.exp(both @ both.T / 0.3)
    np.fill_diagonal(scores, 0)
    positives = np.roll(np.arange(10), 5)
    wanted = -np.log(scores[np.arange(10), positives] / scores.sum(1)).mean()
    first, second = torch.from_numpy(rows)
    assert float(simclr(first, second, temperature=0.3)) == pytest.approx(wanted, abs=1e-12)


def test_equal_images_are_no_negatives_of_each_other() -> None:
    rows = normalize(torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64), dim=-1)
    same = torch.eye(4, dtype=torch.bool)
    same[1, 2] = same[2, 1] = True
    both = rows.reshape(8, 6) @ rows.reshape(8, 6).T / 0.1
    likelihoods = []
    for view in range(2):
        for row in range(4):
            others = [k for k in range(8) if k != view * 4 + row and not (k % 4 != row and same[row, k % 4])]
            logits = both[view * 4 + row]
            likelihoods.append(float(logits[(1 - view) * 4 + row] - logits[others].logsumexp(0)))
    loss = simclr(*rows, temperature=0.1, same=same)
    assert float(loss) == pytest.approx(-np.mean(likelihoods), abs=1e-12)
    _, slip, batch = build(SMALL)
    assert slip(replace(batch, contents=torch.tensor([0, 0, 1, 2, 3, 4]))).item() != slip(batch).item()


def test_the_weight_is_that_of_the_loss_between_views() -> None:
    values = [build(replace(SMALL, weight=weight)) for weight in (0.0, 1.0, 2.0)]
    none, one, two = (loss(batch).item() for _, loss, batch in values)
    assert two - one == pytest.approx(one - none, rel=1e-4)
    assert one > none


def test_a_killed_run_ends_with_the_same_weights() -> None:
    check_resumed(SMALL)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="the weight is -1"):
        Slip(weight=-1)
    with pytest.raises(ValueError, match="the least area 0"):
        Slip(least_area=0)

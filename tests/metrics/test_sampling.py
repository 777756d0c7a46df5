"""Sampled openness: the paper's definitions written out by masking, and the closed form as its expected value."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rag_clip.metrics.openness import openness
from rag_clip.metrics.sampling import sampled_openness

GROUPS = torch.tensor([0, 1, 2, 0, 1, 2, 3, 3])


def noise(images: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    targets = torch.repeat_interleave(torch.arange(8), torch.tensor(images))
    logits = torch.randn(len(targets), 8, generator=draw) + 1.5 * torch.nn.functional.one_hot(targets, 8)
    return logits, targets


def by_masking(logits: torch.Tensor, targets: torch.Tensor, *, trials: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Grow the vocabulary in a loop and evaluate again at every step."""
    labels, of = targets.numpy(), GROUPS.numpy()
    draw = np.random.RandomState(seed)
    extensibility, stability = np.empty((2, 4, trials))
    for start in range(4):
        for trial in range(trials):
            order = [start, *draw.permutation(np.delete(np.arange(4), start))]
            extended, stable = [], []
            for step in range(1, 5):
                masked = np.where(np.isin(of, order[:step]), logits.numpy(), -np.inf)
                right = masked.argmax(1) == labels
                extended.append(right[np.isin(of[labels], order[:step])].mean())
                stable.append(np.mean([right[labels == label].mean() for label in np.flatnonzero(of == start)]))
            extensibility[start, trial], stability[start, trial] = np.mean(extended), np.mean(stable[1:])
    return extensibility, stability


@pytest.mark.parametrize("images", [[5] * 8, [1, 2, 3, 4, 5, 6, 7, 8]], ids=["balanced", "unbalanced"])
def test_sampling_is_a_loop_over_growing_vocabularies(images: list[int]) -> None:
    logits, targets = noise(images)
    found = sampled_openness(logits, targets, GROUPS, trials=3, seed=42)
    extensibility, stability = by_masking(logits, targets, trials=3, seed=42)
    assert found.extensibility.numpy() == pytest.approx(extensibility)
    assert found.stability.numpy() == pytest.approx(stability)
    assert (found.acc_e, found.acc_s) == (pytest.approx(extensibility.mean()), pytest.approx(stability.mean()))


def test_the_closed_form_is_within_the_sampling_error() -> None:
    logits, targets = noise([20] * 8)
    sampled, exact = sampled_openness(logits, targets, GROUPS, trials=100), openness(logits, targets, GROUPS)
    assert sampled.acc_c == pytest.approx(exact.acc_c)
    assert abs(sampled.acc_e - exact.acc_e) < 3 * sampled.error_e
    assert abs(sampled.acc_s - exact.acc_s) < 3 * sampled.error_s
    assert 0 < sampled.error_e < 0.005


def test_stability_has_the_closed_form_for_unequal_groups_too() -> None:
    logits, targets = noise([1, 2, 3, 4, 5, 6, 7, 8])
    sampled, exact = sampled_openness(logits, targets, GROUPS, trials=200), openness(logits, targets, GROUPS)
    assert abs(sampled.acc_s - exact.acc_s) < 3 * sampled.error_s


def test_images_count_alike_in_the_sampled_extensibility_and_classes_in_the_closed_form() -> None:
    # Groups of 32 images each; in two of them, one class has thirty.
    logits, targets = noise([30, 2, 16, 2, 30, 16, 16, 16])
    logits[targets == 0, 0] += 3
    assert torch.bincount(GROUPS[targets]).tolist() == [32, 32, 32, 32]
    sampled, exact = sampled_openness(logits, targets, GROUPS, trials=200), openness(logits, targets, GROUPS)
    assert sampled.acc_c != pytest.approx(exact.acc_c, abs=0.01)
    assert abs(sampled.acc_e - exact.acc_e) > 10 * sampled.error_e
    assert abs(sampled.acc_s - exact.acc_s) < 3 * sampled.error_s


def test_a_single_trial_has_no_error_and_no_trial_is_refused() -> None:
    logits, targets = noise([5] * 8)
    assert np.isnan(sampled_openness(logits, targets, GROUPS, trials=1).error_e)
    with pytest.raises(ValueError, match="trials is 0"):
        sampled_openness(logits, targets, GROUPS, trials=0)


def test_a_group_without_images_cannot_come_first() -> None:
    logits, targets = noise([5, 5, 5, 5, 5, 5, 0, 0])
    with pytest.raises(ValueError, match="group 3 has no image"):
        sampled_openness(logits, targets, GROUPS)

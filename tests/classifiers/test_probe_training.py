import math

import pytest
import torch
from torch.nn import functional

from rag_clip.classifiers.probe_training import (
    NOTHING,
    ONE_LABEL,
    RATES,
    SEVERAL_LABELS,
    WEIGHT_DECAYS,
    search_rates,
)
from rag_clip.progress import ProgressEvent

LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]])


def test_of_one_label_the_objective_is_cross_entropy_and_accuracy():
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.25, 0.75]])
    expected = functional.cross_entropy(LOGITS, targets, reduction="none")
    torch.testing.assert_close(ONE_LABEL.losses(LOGITS, targets), expected)
    assert ONE_LABEL.judgement(LOGITS, targets) == pytest.approx(2 / 3)


def test_of_several_labels_every_class_is_a_question_of_its_own():
    targets = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    right = LOGITS.sigmoid()
    expected = -(targets * right.log() + (1 - targets) * (1 - right).log()).mean(1)
    torch.testing.assert_close(SEVERAL_LABELS.losses(LOGITS, targets), expected)
    # class 0 is first of its ranking: 1; class 1 is first, then ties with a wrong image: 1 to recall 0.5, then 2 / 3
    assert SEVERAL_LABELS.judgement(LOGITS, targets) == pytest.approx((1 + (6 + 5 * 2 / 3) / 11) / 2)


def peak(rate: float, place: int):
    """Score by how near two settings are to a rate and a weight decay, on the scale of the grid."""

    def score(tried: float, weight_decay: float) -> tuple[float, float]:
        return -abs(math.log10(tried / rate)), -abs(math.log10(weight_decay / WEIGHT_DECAYS[place]))

    return score


def test_the_grid_is_the_published_one():
    assert RATES == (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    assert (len(WEIGHT_DECAYS), WEIGHT_DECAYS[0], WEIGHT_DECAYS[48], WEIGHT_DECAYS[96]) == (97, 1e-6, 1.0, 1e6)


def test_every_peak_of_the_grid_is_found():
    found = [search_rates(peak(1e-2, place)) for place in range(97)]
    assert [(best.rate, best.weight_decay) for best in found] == [(1e-2, decay) for decay in WEIGHT_DECAYS]


def test_no_pair_is_tried_twice_and_the_trials_are_reported():
    tried: list[tuple[float, float]] = []
    events: list[ProgressEvent] = []

    def score(rate: float, weight_decay: float) -> tuple[float, float]:
        tried.append((rate, weight_decay))
        return peak(1e-3, 40)(rate, weight_decay)

    search_rates(score, report=events.append)
    assert len(tried) == len(set(tried)) == 90
    assert events[-1] == ProgressEvent("tune", 90, 90, "trials")


def test_what_is_given_stays_and_equal_scores_leave_the_first():
    best = search_rates(lambda rate, weight_decay: NOTHING, weight_decay=0.5)
    assert (best.rate, best.weight_decay, best.score) == (1e-6, 0.5, NOTHING)
    assert search_rates(peak(1e-2, 3), rate=0.7).rate == 0.7

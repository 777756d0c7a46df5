import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from rag_clip.classifiers.probe_training import (
    NOTHING,
    ONE_LABEL,
    RATES,
    SEVERAL_LABELS,
    WEIGHT_DECAYS,
    Images,
    Objective,
    Pair,
    Score,
    best_scores,
    search_rates,
    train_layer,
)
from rag_clip.progress import ProgressEvent
from rag_clip.training.loop import Schedule

LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]])


def test_of_one_label_the_objective_is_cross_entropy_and_accuracy():
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.25, 0.75]])
    expected = functional.cross_entropy(LOGITS, targets, reduction="none")
    torch.testing.assert_close(ONE_LABEL.losses(LOGITS, targets), expected)
    assert ONE_LABEL.judgement(LOGITS, targets) == pytest.approx(2 / 3)


def test_a_layer_is_not_preferred_for_its_confidence():
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    unsure, sure = ONE_LABEL.scores(torch.stack([LOGITS / 8, LOGITS], 1), targets)
    assert unsure == pytest.approx(sure)
    assert unsure[0] == pytest.approx(2 / 3)


def test_of_several_labels_every_class_is_a_question_of_its_own():
    targets = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    right = LOGITS.sigmoid()
    expected = -(targets * right.log() + (1 - targets) * (1 - right).log()).mean(1)
    torch.testing.assert_close(SEVERAL_LABELS.losses(LOGITS, targets), expected)
    # class 0 is first of its ranking: 1; class 1 is first, then ties with a wrong image: 1 to recall 0.5, then 2 / 3
    assert SEVERAL_LABELS.judgement(LOGITS, targets) == pytest.approx((1 + (6 + 5 * 2 / 3) / 11) / 2)


def peak(rate: float, place: int):
    """Score by how near two settings are to a rate and a weight decay, on the scale of the grid."""

    def score(pairs: Sequence[Pair]) -> list[Score]:
        return [
            (-abs(math.log10(tried / rate)), -abs(math.log10(decay / WEIGHT_DECAYS[place]))) for tried, decay in pairs
        ]

    return score


def test_the_grid_is_the_published_one():
    assert RATES == (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    assert (len(WEIGHT_DECAYS), WEIGHT_DECAYS[0], WEIGHT_DECAYS[48], WEIGHT_DECAYS[96]) == (97, 1e-6, 1.0, 1e6)


def test_every_peak_of_the_grid_is_found():
    found = [search_rates(peak(1e-2, place)) for place in range(97)]
    assert [(best.rate, best.weight_decay) for best in found] == [(1e-2, decay) for decay in WEIGHT_DECAYS]


def test_no_pair_is_tried_twice_and_the_trials_are_reported():
    tried: list[Pair] = []
    events: list[ProgressEvent] = []

    def score(pairs: Sequence[Pair]) -> list[Score]:
        tried.extend(pairs)
        return peak(1e-3, 40)(pairs)

    search_rates(score, report=events.append)
    assert len(tried) == len(set(tried)) == 90
    assert events[-1] == ProgressEvent("tune", 90, 90, "trials")


def test_what_is_given_stays_and_equal_scores_leave_the_first():
    best = search_rates(lambda pairs: [NOTHING] * len(pairs), weight_decay=0.5)
    assert (best.rate, best.weight_decay, best.score) == (1e-6, 0.5, NOTHING)
    assert search_rates(peak(1e-2, 3), rate=0.7).rate == 0.7


@pytest.mark.parametrize("objective", [ONE_LABEL, SEVERAL_LABELS])
@pytest.mark.parametrize("at_once", [1000, 2 * 3 * 8])
def test_trials_that_train_together_score_as_they_do_alone(
    objective: Objective, at_once: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rag_clip.classifiers.probe_training.VALUES_AT_ONCE", at_once)  # two pairs, or all
    draw = torch.Generator().manual_seed(0)
    targets = torch.eye(3)[torch.arange(24) % 3]
    rows = torch.randn(24, 8, generator=draw) + targets @ torch.randn(3, 8, generator=draw)
    images = Images(rows, targets, torch.linspace(0.5, 1, 24))
    training, judged = images.take(torch.arange(24) < 18), images.take(torch.arange(24) >= 18)
    layer = torch.randn(3, 8, generator=draw), torch.zeros(3)
    schedule = Schedule(4, 7, 1.0, "sgd", decay="constant", seed=3)
    pairs = [(1e-3, 1e-6), (1e-1, 0.5), (1e9, 1e9), (1e-2, 1e-2), (1e-1, 1e-6)]
    together = best_scores(training, judged, layer, objective, schedule, pairs)
    assert together[2] == NOTHING
    for (rate, decay), found in zip(pairs, together, strict=True):
        if found != NOTHING:
            alone = replace(schedule, rate=rate, weight_decay=decay)
            scores = train_layer(training, layer, objective, alone, judged=judged)[1]
            assert found == pytest.approx(max(scores), rel=1e-4)

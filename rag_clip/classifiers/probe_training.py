"""Training of a linear probe: one layer on standardised features, by an objective, at the rate that a search finds.

For images with one label, the objective is cross-entropy, judged by accuracy. For images with several labels, each
class is learned independently: binary cross-entropy, judged by the mean over classes of the average precision at eleven
recalls (PASCAL VOC 2007; Everingham et al., IJCV 2010), as in ELEVATER (Li et al., NeurIPS 2022, arXiv 2204.08790).

The search is ELEVATER's: the rate is a power of ten from 1e-6 to 1e-1. Weight decay is one of 97 values from 1e-6 to
1e6, eight per decade: for each rate every sixteenth value is tried, then the two neighbours of the best at distances 8,
4, 2 and 1, each time around the best so far. That is at most 15 trials per rate, 90 in total. The authors' first
release always moved to the lower neighbour; this is their corrected search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional

from rag_clip.classifiers.cache import evenly
from rag_clip.metrics.ranking import mean_average_precision
from rag_clip.progress import ProgressEvent, Report, silent
from rag_clip.training.loop import Rows, Schedule, train

EPSILON = 1e-5
RATES = tuple(10.0**power for power in range(-6, 0))
WEIGHT_DECAYS = tuple(10 ** (place / 8 - 6) for place in range(97))
FIRST = range(0, len(WEIGHT_DECAYS), 16)
STEPS = (8, 4, 2, 1)
Layer = tuple[torch.Tensor, torch.Tensor]  # weights [h, d] and biases [h] of the h classes that have images
Score = tuple[float, float]
NOTHING: Score = (0.0, float("-inf"))


@dataclass(frozen=True, slots=True)
class Objective:
    """The `losses` [n] of images and their `judgement` in [0, 1], both from logits [n, h] and targets [n, h]."""

    losses: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    judgement: Callable[[torch.Tensor, torch.Tensor], float]


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return -(targets * logits.log_softmax(1)).sum(1)


def _accuracy(logits: torch.Tensor, targets: torch.Tensor) -> float:
    return float((logits.argmax(1) == targets.argmax(1)).double().mean())


def _binary_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


def _eleven_point_precision(logits: torch.Tensor, targets: torch.Tensor) -> float:
    return mean_average_precision(logits, targets.bool(), eleven_points=True)


ONE_LABEL = Objective(_cross_entropy, _accuracy)
SEVERAL_LABELS = Objective(_binary_cross_entropy, _eleven_point_precision)


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Features `rows` [m, d], `targets` [m, h] over the h classes with images, and the `trust` [m] in each image."""

    rows: torch.Tensor
    targets: torch.Tensor
    trust: torch.Tensor

    def take(self, chosen: torch.Tensor) -> Images:
        """Return the images selected by `chosen`, bool [m]."""
        return Images(self.rows[chosen], self.targets[chosen], self.trust[chosen])


@dataclass(frozen=True, slots=True)
class Best:
    """The settings with the greatest score, the first of equals; scores are compared as tuples."""

    rate: float
    weight_decay: float
    score: Score


def spread_rows(targets: torch.Tensor, *, at_most: int) -> torch.Tensor:
    """Return which rows of targets [m, h] to take, bool [m]: at most `at_most` of each class, evenly spaced.

    A row with several classes is taken if any of its classes takes it.
    """
    labelled = targets > 0
    if len(labelled) <= at_most or int(labelled.sum(0).max()) <= at_most:
        return labelled.new_ones(len(labelled))
    taken = labelled.new_zeros(len(labelled))
    for column in labelled.T:
        rows = column.nonzero()[:, 0]
        taken[rows[evenly(len(rows), at_most, rows.device)]] = True
    return taken


def best_score(training: Images, judged: Images, layer: Layer, objective: Objective, schedule: Schedule) -> Score:
    """Return the score of the best epoch on the images `judged`, or NOTHING if training diverges."""
    try:
        return max(train_layer(training, layer, objective, schedule, judged=judged)[1], default=NOTHING)
    except ArithmeticError:
        return NOTHING


def train_layer(
    images: Images,
    layer: Layer,
    objective: Objective,
    schedule: Schedule,
    *,
    judged: Images | None = None,
    report: Report = silent,
) -> tuple[Layer, list[Score]]:
    """Train from `layer` on; return the layer with the standardisation folded in, and the scores of its epochs.

    images: the training images.
    layer: the initial weights [h, d] and biases [h].
    objective: the loss, and how an epoch is judged.
    schedule: epochs, batch size, rate and so on.
    judged: images that score each epoch; without them there are no scores, and the last epoch is kept.
    report: called with the progress.

    A score is the judgement and the negated mean loss on the images `judged`. Raises ArithmeticError if the weights or
    the loss become infinite or NaN.
    """
    mean = images.rows.mean(0)
    deviation = (images.rows.var(0, correction=0) + EPSILON).sqrt()
    standard = (images.rows - mean) / deviation  # [m, d]
    weights, biases = (value.clone().requires_grad_() for value in layer)
    scores: list[Score] = []

    def loss(rows: torch.Tensor) -> torch.Tensor:
        trust = images.trust[rows]
        losses = objective.losses(standard[rows] @ weights.T + biases, images.targets[rows])  # [b]
        return (trust * losses).sum() / trust.sum()

    def judge(judged: Images) -> float:
        logits = (judged.rows - mean) / deviation @ weights.T + biases  # [n, h]
        if not bool(logits.isfinite().all()):
            raise ArithmeticError("the weights are not finite")
        judgement = objective.judgement(logits, judged.targets)
        scores.append((judgement, -float(objective.losses(logits, judged.targets).mean())))
        return judgement

    validate = None if judged is None else lambda: judge(judged)
    train([weights, biases], loss, Rows(len(standard)), schedule=schedule, validate=validate, report=report)
    folded = weights.detach() / deviation  # [h, d], for features that are not standardised
    return (folded, biases.detach() - folded @ mean), scores


def search_rates(
    score: Callable[[float, float], Score],
    *,
    rate: float | None = None,
    weight_decay: float | None = None,
    report: Report = silent,
) -> Best:
    """Return the best pair of rate and weight decay by `score(rate, weight_decay)`; a given value is kept.

    No pair is scored twice.
    """
    trials: dict[tuple[float, float], Score] = {}
    rates = RATES if rate is None else (rate,)
    most = len(rates) * (len(FIRST) + 2 * len(STEPS) if weight_decay is None else 1)

    def attempt(rate: float, weight_decay: float) -> Score:
        pair = rate, weight_decay
        if pair not in trials:
            trials[pair] = score(*pair)
            report(ProgressEvent("tune", len(trials), most, "trials"))
        return trials[pair]

    for tried_rate in rates:
        if weight_decay is None:
            _climb(partial(attempt, tried_rate))
        else:
            attempt(tried_rate, weight_decay)
    best = max(trials, key=trials.__getitem__)
    return Best(*best, trials[best])


def _climb(attempt: Callable[[float], Score]) -> None:
    def at(index: int) -> Score:
        return attempt(WEIGHT_DECAYS[index])

    best = max(FIRST, key=at)
    for step in STEPS:
        near = (best, best - step, best + step)
        best = max((index for index in near if 0 <= index < len(WEIGHT_DECAYS)), key=at)

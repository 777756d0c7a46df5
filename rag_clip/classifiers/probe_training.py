"""The training of a linear probe: one layer on standardised features, by an objective, scored after every epoch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rag_clip.classifiers.cache import evenly
from rag_clip.classifiers.probe_objective import Objective
from rag_clip.classifiers.probe_search import NOTHING, Score
from rag_clip.progress import Report, silent
from rag_clip.training.loop import Schedule, fit

EPSILON = 1e-5
Layer = tuple[torch.Tensor, torch.Tensor]  # weights [h, d] and biases [h] of the h classes that have images


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """`rows` [m, d] of features, their `targets` [m, h] of the h classes that have images, and their `trust` [m]."""

    rows: torch.Tensor
    targets: torch.Tensor
    trust: torch.Tensor

    def take(self, chosen: torch.Tensor) -> Images:
        """Return the images `chosen`, bool [m]."""
        return Images(self.rows[chosen], self.targets[chosen], self.trust[chosen])


def spread_rows(targets: torch.Tensor, *, at_most: int) -> torch.Tensor:
    """Return which rows of targets [m, h] to take, bool [m], for `at_most` evenly spaced ones of each class.

    A row of several classes is taken if one of them takes it.
    """
    held = targets > 0
    if len(held) <= at_most or int(held.sum(0).max()) <= at_most:
        return held.new_ones(len(held))
    taken = held.new_zeros(len(held))
    for column in held.T:
        rows = column.nonzero()[:, 0]
        taken[rows[evenly(len(rows), at_most, rows.device)]] = True
    return taken


def best_score(training: Images, judged: Images, layer: Layer, objective: Objective, schedule: Schedule) -> Score:
    """Return the score of the best epoch on the images `judged`, that of nothing where training diverges."""
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

    A score is the judgement and the negated mean loss of the images `judged`. Raises ArithmeticError where the weights
    or the loss stop being finite.
    """
    mean = images.rows.mean(0)
    deviation = (images.rows.var(0, correction=0) + EPSILON).sqrt()
    standard = (images.rows - mean) / deviation
    weights, biases = (value.clone().requires_grad_() for value in layer)
    scores: list[Score] = []

    def loss(rows: torch.Tensor) -> torch.Tensor:
        trust = images.trust[rows]
        losses = objective.losses(standard[rows] @ weights.T + biases, images.targets[rows])
        return (trust * losses).sum() / trust.sum()

    def judge(judged: Images) -> float:
        logits = (judged.rows - mean) / deviation @ weights.T + biases
        if not bool(logits.isfinite().all()):
            raise ArithmeticError("the weights are not finite")
        judgement = objective.judgement(logits, judged.targets)
        scores.append((judgement, -float(objective.losses(logits, judged.targets).mean())))
        return judgement

    validate = None if judged is None else lambda: judge(judged)
    fit([weights, biases], loss, rows=len(standard), schedule=schedule, validate=validate, report=report)
    folded = weights.detach() / deviation
    return (folded, biases.detach() - folded @ mean), scores

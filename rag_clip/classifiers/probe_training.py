"""Training of a linear probe: one layer on standardised features, by an objective, at the rate that a search finds.

For images with one label, the objective is cross-entropy, judged by accuracy. For images with several labels, each
class is learned independently: binary cross-entropy, judged by the mean over classes of the average precision at eleven
recalls (PASCAL VOC 2007; Everingham et al., IJCV 2010), as in ELEVATER (Li et al., NeurIPS 2022, arXiv 2204.08790).

The search is ELEVATER's: the rate is a power of ten from 1e-6 to 1e-1. Weight decay is one of 97 values from 1e-6 to
1e6, eight per decade: for each rate every sixteenth value is tried, then the two neighbours of the best at distances 8,
4, 2 and 1, each time around the best so far. That is at most 15 trials per rate, 90 in total. The authors' first
release always moved to the lower neighbour; this is their corrected search. The rates climb side by side, and trials
that see the same batches train together, as one wide layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch.nn import functional

from rag_clip.classifiers.cache import evenly
from rag_clip.metrics.ranking import mean_average_precision
from rag_clip.progress import ProgressEvent, Report, silent
from rag_clip.training.loop import Rows, Schedule, row_steps, train

EPSILON = 1e-5
RATES = tuple(10.0**power for power in range(-6, 0))
WEIGHT_DECAYS = tuple(10 ** (place / 8 - 6) for place in range(97))
FIRST = range(0, len(WEIGHT_DECAYS), 16)
STEPS = (8, 4, 2, 1)
TIE = 1e-7  # of a loss, which decides between epochs with equally many correct images, as between trials
VALUES_AT_ONCE = 2**24  # of the weights, and of the logits, of trials that train together
Layer = tuple[torch.Tensor, torch.Tensor]  # weights [h, d] and biases [h] of the h classes that have images
Pair = tuple[float, float]  # rate and weight decay
Score = tuple[float, float]
NOTHING: Score = (0.0, float("-inf"))


@dataclass(frozen=True, slots=True)
class Objective:
    """The `losses` [n] of images and their `judgement` in [0, 1], both from logits [n, h] and targets [n, h].

    Losses [n, t] of t layers come from logits [n, t, h] and targets [n, 1, h]. Between equal judgements, the lowest
    mean loss with logits times one of `factors` decides, so that a layer is not preferred for its confidence.
    """

    losses: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    judgement: Callable[[torch.Tensor, torch.Tensor], float]
    factors: tuple[float, ...]

    @torch.no_grad()
    def scores(self, logits: torch.Tensor, targets: torch.Tensor) -> list[Score]:
        """Return the scores of t layers from logits [n, t, h] and targets [n, h]."""
        losses = [self.losses(factor * logits, targets[:, None]).mean(0) for factor in self.factors]  # [t] each
        judgements = [self.judgement(layer, targets) for layer in logits.unbind(1)]
        return list(zip(judgements, (-torch.stack(losses).amin(0)).tolist(), strict=True))


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return -(targets * logits.log_softmax(-1)).sum(-1)


def _accuracy(logits: torch.Tensor, targets: torch.Tensor) -> float:
    return float((logits.argmax(1) == targets.argmax(1)).double().mean())


def _binary_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(logits, targets.expand_as(logits), reduction="none").mean(-1)


def _eleven_point_precision(logits: torch.Tensor, targets: torch.Tensor) -> float:
    return mean_average_precision(logits, targets.bool(), eleven_points=True)


ONE_LABEL = Objective(_cross_entropy, _accuracy, tuple(2.0**power for power in range(-3, 7)))
SEVERAL_LABELS = Objective(_binary_cross_entropy, _eleven_point_precision, (1.0,))


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


def best_scores(
    training: Images, judged: Images, layer: Layer, objective: Objective, schedule: Schedule, pairs: Sequence[Pair]
) -> list[Score]:
    """Return the score of each pair of rate and weight decay: that of its best epoch on the images `judged`.

    A pair with which training diverges scores NOTHING. `schedule` gives epochs, batches and momentum.
    """
    at_once = max(1, VALUES_AT_ONCE // (len(layer[0]) * max(layer[0].shape[1], len(judged.rows))))
    parts = [pairs[start : start + at_once] for start in range(0, len(pairs), at_once)]
    return [score for part in parts for score in _scores_together(training, judged, layer, objective, schedule, part)]


def _scores_together(
    training: Images, judged: Images, layer: Layer, objective: Objective, schedule: Schedule, pairs: Sequence[Pair]
) -> list[Score]:
    """Train t pairs on the same batches by v = momentum v + gradient + decay w, w = w - rate v."""
    mean, deviation = _statistics(training)
    rows, held = (
        torch.cat([(images.rows - mean) / deviation, images.rows.new_ones(len(images.rows), 1)], 1)  # biases see a 1
        for images in (training, judged)
    )  # [m, d + 1], [n, d + 1]
    weights = torch.cat([layer[0], layer[1][:, None]], 1).repeat(len(pairs), 1).requires_grad_()  # [t h, d + 1]
    rates, decays = rows.new_tensor(pairs).repeat_interleave(len(layer[0]), 0)[:, :, None].unbind(1)  # [t h, 1]
    speed = torch.zeros_like(weights)

    def logits(rows: torch.Tensor) -> torch.Tensor:
        return (rows @ weights.T).view(len(rows), len(pairs), -1)  # [n, t, h]

    best, finite = [NOTHING] * len(pairs), torch.ones(len(pairs), dtype=torch.bool, device=rows.device)
    steps = row_steps(Rows(len(rows)), schedule)
    for _ in range(schedule.epochs):
        for (batch,) in islice(steps, -(-len(rows) // schedule.batch_size)):
            trust = training.trust[batch]
            losses = objective.losses(logits(rows[batch]), training.targets[batch, None])  # [b, t]
            means = trust @ losses / trust.sum()
            finite &= means.isfinite()
            (gradient,) = torch.autograd.grad(means.sum(), weights)
            with torch.no_grad():
                speed.mul_(schedule.momentum).add_(gradient).addcmul_(decays, weights)
                weights.addcmul_(rates, speed, value=-1)
        with torch.no_grad():
            found = logits(held)
            finite &= found.isfinite().all(2).all(0)
            found = torch.where(finite[:, None], found, 0.0)
        best = [max(pair) for pair in zip(best, objective.scores(found, judged.targets), strict=True)]
    return [score if trained else NOTHING for score, trained in zip(best, finite.tolist(), strict=True)]


def _statistics(images: Images) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and the deviation of features, each [d]."""
    return images.rows.mean(0), (images.rows.var(0, correction=0) + EPSILON).sqrt()


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

    A score is the judgement and the negated loss (see `Objective`) on the images `judged`. Raises ArithmeticError if
    the weights or the loss become infinite or NaN.
    """
    mean, deviation = _statistics(images)
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
        scores.extend(objective.scores(logits[:, None], judged.targets))
        judgement, loss = scores[-1]
        return judgement + TIE * loss

    validate = None if judged is None else lambda: judge(judged)
    train([weights, biases], loss, Rows(len(standard)), schedule=schedule, validate=validate, report=report)
    folded = weights.detach() / deviation  # [h, d], for features that are not standardised
    return (folded, biases.detach() - folded @ mean), scores


def search_rates(
    score: Callable[[Sequence[Pair]], Sequence[Score]],
    *,
    rate: float | None = None,
    weight_decay: float | None = None,
    report: Report = silent,
) -> Best:
    """Return the best pair of rate and weight decay by the scores of `score(pairs)`; a given value is kept.

    No pair is scored twice.
    """
    rates, decays = RATES if rate is None else (rate,), WEIGHT_DECAYS if weight_decay is None else (weight_decay,)
    first, steps = (FIRST, STEPS) if weight_decay is None else (range(1), ())
    most = len(rates) * (len(first) + 2 * len(steps))
    trials: dict[Pair, Score] = {}

    def climb(places: Sequence[Sequence[int]]) -> list[int]:
        """Return the best of the decays at `places`, for each rate."""
        pairs = [[(rate, decays[place]) for place in row] for rate, row in zip(rates, places, strict=True)]
        new = [pair for row in pairs for pair in row if pair not in trials]
        trials.update(zip(new, score(new), strict=True))
        report(ProgressEvent("tune", len(trials), most, "trials"))
        return [
            max(zip(row, place, strict=True), key=lambda each: trials[each[0]])[1]
            for row, place in zip(pairs, places, strict=True)
        ]

    best = climb([first] * len(rates))
    for step in steps:
        near = [(place, place - step, place + step) for place in best]
        best = climb([[place for place in row if 0 <= place < len(decays)] for row in near])
    pair = max(((rate, decays[place]) for rate, place in zip(rates, best, strict=True)), key=trials.__getitem__)
    return Best(*pair, trials[pair])

"""A linear probe: one layer on standardised features, trained from the texts or from random weights.

    logits = ((f - mean) / sqrt(variance + 1e-5)) W' + b        W [c, d] and b [c] trained; mean, variance [d]

The protocol of ELEVATER (Li et al., NeurIPS 2022, arXiv 2204.08790): SGD with momentum 0.9, batches of 64, a constant
rate; W starts at the text classifier and b at zero (language), or both at random. Rate and weight decay are searched
(`probe_search`) in trials of 10 epochs on four fifths of the images, judged by the first fifth of each class, a trial
being as good as its best epoch, or nothing where it diverges, if only in time. Then 50 epochs on all images.

Where we differ: the authors report the epoch that was best on the test set, this is the last. They standardise by batch
and test with running averages, which few shots do not settle; here by the training images as a whole, and features are
unit rows. Of settings that get as many right, the lowest cross-entropy is chosen. A class of one image trains on it and
judges nothing; where nothing can judge, the rate is 1e-3, in the middle of those searched, and weight decay the least.
Images decide among the classes that have any (`evidence.among`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch.nn import functional

from rag_clip.classifiers.evidence import among, gather_evidence, hold_out
from rag_clip.classifiers.inner_split import judging_rows
from rag_clip.classifiers.probe_search import NOTHING, Score, search_rates
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support, Validation
from rag_clip.progress import Report, silent
from rag_clip.train import Schedule, fit

TRIAL_EPOCHS = 10
RATE, WEIGHT_DECAY = 1e-3, 1e-6
SCHEDULE = Schedule(50, 64, RATE, "sgd", weight_decay=WEIGHT_DECAY, decay="constant")
GROWS = 2 * (1 + SCHEDULE.momentum)  # rate times weight decay from which on weights grow without bound, by decay alone
EPSILON = 1e-5
_Layer = tuple[torch.Tensor, torch.Tensor]  # weights [h, d] and biases [h] of the h classes that have images


@dataclass(frozen=True, slots=True)
class Tuned:
    """The rate and weight decay, who chose them, and the accuracy of their trial on the images they were chosen by."""

    rate: float
    weight_decay: float
    by: Literal["given", "default", "validation", "inner split"]
    accuracy: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LinearProbe:
    """The layer, its standardisation folded in: `weights` [c, d] and `biases` [c], zero but for classes `present` [c].

    `tuned` are its settings.
    """

    zero_shot: ZeroShot
    weights: torch.Tensor
    biases: torch.Tensor
    present: torch.Tensor
    tuned: Tuned

    @property
    def labels(self) -> LabelSet:
        """The c classes."""
        return self.zero_shot.labels

    @property
    def parameters(self) -> int:
        """How many numbers were trained."""
        return int(self.present.sum()) * (self.weights.shape[1] + 1)

    def __call__(self, features: Features) -> torch.Tensor:
        """Return logits [n, c] on the device and in the dtype of `features.pooled`; computed in float32 at least."""
        rows = features.pooled.to(torch.promote_types(features.pooled.dtype, torch.float32))
        text = self.zero_shot(Features(rows))
        logits = rows @ self.weights.to(rows).T + self.biases.to(rows)
        return among(logits, text, self.present.to(rows.device)).to(features.pooled.dtype)


def linear_probe(
    zero_shot: ZeroShot,
    support: Support,
    *,
    start: Literal["language", "random"] = "language",
    rate: float | None = None,
    weight_decay: float | None = None,
    seed: int = 0,
    validation: Validation | None = None,
    report: Report = silent,
) -> LinearProbe:
    """Train the probe on support images; what of rate and weight decay is not given is searched.

    Validation images judge the search if given, else the first fifth of the shots of each class, which then train with
    the others. `seed` draws batches and random weights. Raises ValueError where support or validation do not fit the
    classifier, and for settings that are not above zero.
    """
    if not all(value is None or value > 0 for value in (rate, weight_decay)):
        raise ValueError(f"rate is {rate} and weight_decay {weight_decay}; both must be above zero")
    evidence = gather_evidence(zero_shot, support)
    present = evidence.present
    images = _Images(evidence.images.float(), evidence.shares[:, present].float())
    layer = _start(start, evidence.text[present].float(), seed)
    if validation is None:
        judges = judging_rows(torch.where(evidence.judges, evidence.shares.argmax(1), -1))
        training, judged = images.take(~judges), images.take(judges)
    else:
        held = hold_out(zero_shot, validation, present)
        training, judged = images, _Images(held.images.float(), held.targets[:, present].float())

    def score(rate: float, weight_decay: float) -> Score:
        if rate * weight_decay >= GROWS:
            return NOTHING
        schedule = replace(SCHEDULE, epochs=TRIAL_EPOCHS, rate=rate, weight_decay=weight_decay, seed=seed)
        return _try(training, judged, layer, schedule)

    if rate is not None and weight_decay is not None:
        tuned = Tuned(rate, weight_decay, "given")
    elif len(judged.rows) == 0:
        tuned = Tuned(rate or RATE, weight_decay or WEIGHT_DECAY, "default")
    else:
        best = search_rates(score, rate=rate, weight_decay=weight_decay, report=report)
        by: Literal["inner split", "validation"] = "inner split" if validation is None else "validation"
        tuned = Tuned(best.rate, best.weight_decay, by, best.score[0])
    schedule = replace(SCHEDULE, rate=tuned.rate, weight_decay=tuned.weight_decay, seed=seed)
    weights, biases = _train(images, layer, schedule, report=report)[0] if len(images.rows) else layer
    return LinearProbe(zero_shot, _placed(weights, present), _placed(biases, present), present, tuned)


@dataclass(frozen=True, slots=True, eq=False)
class _Images:
    """`rows` [m, d] of features, and how much each counts for the h classes that have images, `shares` [m, h]."""

    rows: torch.Tensor
    shares: torch.Tensor

    def take(self, chosen: torch.Tensor) -> _Images:
        return _Images(self.rows[chosen], self.shares[chosen])


def _start(start: str, text: torch.Tensor, seed: int) -> _Layer:
    if start == "language":
        return text, text.new_zeros(len(text))
    bound = text.shape[1] ** -0.5  # as torch.nn.Linear begins
    drawn = torch.rand(len(text), text.shape[1] + 1, generator=torch.Generator().manual_seed(seed)).to(text)
    return (2 * drawn[:, 1:] - 1) * bound, (2 * drawn[:, 0] - 1) * bound


def _placed(values: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    placed = values.new_zeros(len(present), *values.shape[1:])
    placed[present] = values
    return placed


def _try(training: _Images, judged: _Images, layer: _Layer, schedule: Schedule) -> Score:
    try:
        return max(_train(training, layer, schedule, judged=judged)[1], default=NOTHING)
    except ArithmeticError:
        return NOTHING


def _train(
    images: _Images, layer: _Layer, schedule: Schedule, *, judged: _Images | None = None, report: Report = silent
) -> tuple[_Layer, list[Score]]:
    """Train from `layer` on; return the layer with the standardisation folded in, and the scores of its epochs.

    A score is the accuracy and the negated cross-entropy on the images `judged`.
    """
    mean = images.rows.mean(0)
    deviation = (images.rows.var(0, correction=0) + EPSILON).sqrt()
    standard = (images.rows - mean) / deviation
    weights, biases = (value.clone().requires_grad_() for value in layer)
    scores: list[Score] = []

    def loss(rows: torch.Tensor) -> torch.Tensor:
        logits, shares = standard[rows] @ weights.T + biases, images.shares[rows]
        return -(shares * logits.log_softmax(1)).sum() / shares.sum()

    def judge(judged: _Images) -> float:
        logits, targets = (judged.rows - mean) / deviation @ weights.T + biases, judged.shares.argmax(1)
        if not bool(logits.isfinite().all()):
            raise ArithmeticError("the weights are not finite")
        accuracy = float((logits.argmax(1) == targets).double().mean())
        scores.append((accuracy, -float(functional.cross_entropy(logits, targets))))
        return accuracy

    validate = None if judged is None else lambda: judge(judged)
    fit([weights, biases], loss, rows=len(standard), schedule=schedule, validate=validate, report=report)
    folded = weights.detach() / deviation
    return (folded, biases.detach() - folded @ mean), scores

"""A linear probe: one layer on standardised features, trained from the texts or from random weights.

    logits = ((f - mean) / sqrt(variance + 1e-5)) W' + b        W [c, d] and b [c] trained; mean, variance [d]

The protocol of ELEVATER (Li et al., NeurIPS 2022, arXiv 2204.08790): SGD with momentum 0.9, batches of 64, a constant
rate; W starts at the text classifier and b at zero (language), or both at random. Rate and weight decay are searched
(`probe_training`) in trials of 10 epochs on four fifths of the images. The first fifth of each class judges a trial by
its best epoch; a trial that diverges at any time counts as zero. The final training takes 50 epochs on all images. For
classes with more than 10,000 images the search uses 10,000, evenly spaced (of their data sets, only PatchCamelyon has
such classes). If images have several labels, each class is learned independently (`probe_training`).

Differences: the authors report the epoch that was best on the test set; this reports the best on validation images, or
the last without them. Pairs with rate times decay of 0.1 or more are not tried, because decay then outweighs momentum.
The authors standardise by batch and test with running averages, which few shots do not settle; here the statistics are
those of all training images, and features are unit rows. Among settings with equally many correct images, the one with
the lowest cross-entropy at its best temperature is chosen: at a fixed one, large rates win by confidence alone. A class
with one image trains on it and judges nothing. If nothing can judge, the rate is 1e-3, the middle of the range
searched, and the weight decay the smallest. (For one shot, the authors' code draws two images, one to train and one to
judge; here one shot is one labelled image.) Images decide among the classes that have any (`evidence.among`); with
several labels per image, those classes get the learned log odds, and the others the logarithm of the text's
probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from rag_clip.classifiers.evidence import Evidence, among, gather_evidence, hold_out, wide
from rag_clip.classifiers.inner_split import judging_rows
from rag_clip.classifiers.probe_training import (
    NOTHING,
    ONE_LABEL,
    SEVERAL_LABELS,
    Images,
    Layer,
    Pair,
    Score,
    best_scores,
    search_rates,
    spread_rows,
    train_layer,
)
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, SeveralLabels, Support, Targets, Validation
from rag_clip.progress import Report, silent
from rag_clip.protocols import Encoder
from rag_clip.training.loop import Schedule

TRIAL_EPOCHS = 10
RATE, WEIGHT_DECAY = 1e-3, 1e-6
SCHEDULE = Schedule(50, 64, RATE, "sgd", weight_decay=WEIGHT_DECAY, decay="constant")
TURNS = 1 - SCHEDULE.momentum  # at this product of rate and weight decay, decay erases the start within a step or two
SEARCHED_PER_CLASS = 10_000


@dataclass(frozen=True, slots=True)
class Tuned:
    """The rate and weight decay, how they were chosen, and their trial's accuracy on the images that judged.

    For images with several labels, the accuracy is the mean 11-point average precision.
    """

    rate: float
    weight_decay: float
    by: Literal["given", "default", "validation", "inner split"]
    accuracy: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LinearProbe:
    """The layer with its standardisation folded in: `weights` [c, d] and `biases` [c], zero outside `present` [c].

    `tuned` are its settings. If it learned `several` labels per image, logits are log odds of each class independently.
    """

    zero_shot: ZeroShot
    weights: torch.Tensor
    biases: torch.Tensor
    present: torch.Tensor
    tuned: Tuned
    several: bool = False

    @property
    def labels(self) -> LabelSet:
        """The c classes."""
        return self.zero_shot.labels

    @property
    def parameters(self) -> int:
        """The number of trained values."""
        return int(self.present.sum()) * (self.weights.shape[1] + 1)

    def __call__(self, features: Features) -> torch.Tensor:
        """Return logits [n, c] on the device and in the dtype of `features.pooled`; computed in float32 or wider."""
        rows = wide(features.pooled)
        text = self.zero_shot(Features(rows))
        logits = rows @ self.weights.to(rows).T + self.biases.to(rows)
        if self.several:
            return torch.where(self.present.to(rows.device), logits, text.log_softmax(1)).to(features.pooled)
        return among(logits, text, self.present.to(rows.device)).to(features.pooled.dtype)


@dataclass(frozen=True, slots=True)
class LinearProbeSettings:
    """The start of the layer, and its rate and weight decay; a value of None is searched.

    `seed` draws batches and random weights. Raises ValueError for a rate or a decay that is not above zero.
    """

    start: Literal["language", "random"] = "language"
    rate: float | None = None
    weight_decay: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not all(value is None or value > 0 for value in (self.rate, self.weight_decay)):
            raise ValueError(f"rate is {self.rate} and weight_decay {self.weight_decay}; both must be above zero")

    def build(
        self,
        zero_shot: ZeroShot,
        support: Support,
        *,
        validation: Validation | None = None,
        encoder: Encoder | None = None,
        report: Report = silent,
    ) -> LinearProbe:
        """Train the probe on support images.

        Validation images judge the search if given; otherwise the first fifth of the shots of each class judges, and
        then trains together with the others. Raises ValueError if support or validation do not fit the classifier.
        """
        evidence = gather_evidence(zero_shot, support, several=support.several)
        present, trust = evidence.present, support.relevance[support.relevance > 0].to(evidence.images)
        objective = SEVERAL_LABELS if support.several else ONE_LABEL
        shares = evidence.shares[:, present]  # [m, h]
        images = Images(evidence.images.float(), (shares / trust[:, None]).float(), trust.float())
        layer = _start(self.start, evidence.text[present].float(), self.seed)
        searched = spread_rows(images.targets, at_most=SEARCHED_PER_CLASS)
        if validation is None:
            judges = judging_rows(_judging_classes(evidence, several=support.several))
            training, judged = images.take(searched & ~judges), images.take(searched & judges)
        else:
            validated = hold_out(zero_shot, validation, present, several=support.several)
            training = images.take(searched)
            judged = Images(
                validated.images.float(),
                validated.targets[:, present].float(),
                validated.images.new_ones(len(validated.images)),
            )

        def score(pairs: Sequence[Pair]) -> list[Score]:
            tame = [pair for pair in pairs if pair[0] * pair[1] < TURNS]
            trial = replace(SCHEDULE, epochs=TRIAL_EPOCHS, seed=self.seed)
            scores = dict(zip(tame, best_scores(training, judged, layer, objective, trial, tame), strict=True))
            return [scores.get(pair, NOTHING) for pair in pairs]

        rate, weight_decay = self.rate, self.weight_decay
        if rate is not None and weight_decay is not None:
            tuned = Tuned(rate, weight_decay, "given")
        elif len(judged.rows) == 0:
            tuned = Tuned(rate or RATE, weight_decay or WEIGHT_DECAY, "default")
        else:
            best = search_rates(score, rate=rate, weight_decay=weight_decay, report=report)
            by: Literal["inner split", "validation"] = "inner split" if validation is None else "validation"
            tuned = Tuned(best.rate, best.weight_decay, by, best.score[0])
        schedule = replace(SCHEDULE, rate=tuned.rate, weight_decay=tuned.weight_decay, seed=self.seed)
        chooses = judged if validation is not None and len(judged.rows) else None
        if len(images.rows):
            layer = train_layer(images, layer, objective, schedule, judged=chooses, report=report)[0]
        weights, biases = layer
        return LinearProbe(
            zero_shot, _spread(weights, present), _spread(biases, present), present, tuned, support.several
        )


def _judging_classes(evidence: Evidence, *, several: bool) -> Targets:
    if several:
        return SeveralLabels((evidence.shares > 0) & evidence.judges[:, None])
    return torch.where(evidence.judges, evidence.shares.argmax(1), -1)


def _start(start: str, text: torch.Tensor, seed: int) -> Layer:
    if start == "language":
        return text, text.new_zeros(len(text))
    bound = text.shape[1] ** -0.5  # the initial range of torch.nn.Linear
    drawn = torch.rand(len(text), text.shape[1] + 1, generator=torch.Generator().manual_seed(seed)).to(text)
    return (2 * drawn[:, 1:] - 1) * bound, (2 * drawn[:, 0] - 1) * bound


def _spread(values: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Return values [h, ...] of the classes `present` in the rows of all classes [c, ...], zero for the others."""
    result = values.new_zeros(len(present), *values.shape[1:])
    result[present] = values
    return result

"""Tip-Adapter: a cache of support images beside the text classifier; and Tip-Adapter-F, with trained keys.

    logits = scale f W + bias + (scale / 100) alpha exp(-beta (1 - f F')) V        F [m, d] keys, V [m, c] votes

Zhang et al., ECCV 2022 (arXiv 2207.09519). Votes are those of `cache`, balanced unless mode="published". If alpha and
beta are not given, they are chosen on validation images, or by leaving one shot out, or are those of the authors'
ImageNet configuration. The authors' grid has 20 x 200 steps, with bounds per data set; the bounds here are their
widest.

Tip-Adapter-F starts from the keys F and trains them, without normalising them again, by cross-entropy on the support
images: AdamW 1e-3, epsilon 1e-4, weight decay 0.01, cosine per step, batches of 256, 20 epochs. The authors kept the
epoch that was best on the test set; here it is the best on validation images, or the last. Features are fixed, not
augmented anew in each epoch, so the cosine of an image to its own key is 1. In "balanced" mode an image therefore does
not vote for itself in training, unless it is the only one of its class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from rag_clip.classifiers.cache import Cache, Mode, affinities_of, build_cache
from rag_clip.classifiers.evidence import one_label, wide
from rag_clip.classifiers.search import Choice, Judged, choose, judged_images
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support, Validation
from rag_clip.progress import Report, silent
from rag_clip.protocols import Classifier, Encoder
from rag_clip.training.loop import Rows, Schedule, train

ALPHA, BETA = 1.17, 1.0
ALPHAS = tuple(0.1 + step * (50 - 0.1) / 20 for step in range(20))
BETAS = tuple(0.1 + step * (50 - 0.1) / 200 for step in range(200))
PUBLISHED_SCHEDULE = Schedule(epochs=20, batch_size=256, rate=1e-3, epsilon=1e-4, weight_decay=0.01)


@dataclass(frozen=True, slots=True, eq=False)
class TipAdapter:
    """The text classifier, the cache, the settings (alpha quoted for scale 100), and whether the keys are `trained`."""

    zero_shot: ZeroShot
    cache: Cache
    choice: Choice
    trained: bool = False

    @property
    def labels(self) -> LabelSet:
        """The c classes."""
        return self.zero_shot.labels

    @property
    def parameters(self) -> int:
        """The number of trained values: those of the keys, or 0."""
        return self.cache.keys.numel() if self.trained else 0

    def __call__(self, features: Features) -> torch.Tensor:
        """Return logits [n, c] on the device and in the dtype of `features.pooled`; computed in float32 or wider."""
        pooled = wide(features.pooled)
        affinities = affinities_of(self.cache.cosines(pooled), self.choice.beta)  # [n, m]
        votes = self.choice.alpha * self.zero_shot.scale / 100 * self.cache.count(affinities)
        return self.cache.decide(votes, self.zero_shot(Features(pooled))).to(features.pooled.dtype)


@dataclass(frozen=True, slots=True)
class TipAdapterSettings:
    """alpha and beta, chosen if None, and how votes are counted (`cache`)."""

    alpha: float | None = None
    beta: float | None = None
    mode: Mode = "balanced"

    def build(
        self,
        zero_shot: ZeroShot,
        support: Support,
        *,
        validation: Validation | None = None,
        encoder: Encoder | None = None,
        report: Report = silent,
    ) -> TipAdapter:
        """Build Tip-Adapter; raises ValueError if support or validation do not fit the classifier."""
        cache = build_cache(zero_shot, support, mode=self.mode)
        judged = judged_images(zero_shot, support, validation)
        return TipAdapter(zero_shot, cache, _choose(zero_shot, cache, judged, self.alpha, self.beta))


@dataclass(frozen=True, slots=True)
class TipAdapterFSettings:
    """The settings of Tip-Adapter, and the schedule that trains its keys."""

    alpha: float | None = None
    beta: float | None = None
    mode: Mode = "balanced"
    schedule: Schedule = PUBLISHED_SCHEDULE

    def build(
        self,
        zero_shot: ZeroShot,
        support: Support,
        *,
        validation: Validation | None = None,
        encoder: Encoder | None = None,
        report: Report = silent,
    ) -> TipAdapter:
        """Build Tip-Adapter and train its keys; with validation, alpha and beta are chosen again for the trained keys.

        Soft targets are learned as they are, and an image counts in the loss by its relevance. Raises ValueError as
        Tip-Adapter does.
        """
        start = TipAdapterSettings(self.alpha, self.beta, self.mode).build(zero_shot, support, validation=validation)
        keys = start.cache.keys.double().requires_grad_()  # in float32, AdamW makes rounding errors visible in logits
        training = replace(start, cache=replace(start.cache, keys=keys))
        judged = None if validation is None else judged_images(zero_shot, support, validation)
        train(
            [keys],
            _loss(training, support, self.mode),
            Rows(len(support)),
            schedule=self.schedule,
            validate=None if validation is None else lambda: accuracy(training, validation),
            report=report,
        )
        cache = replace(start.cache, keys=keys.detach().float())
        choice = start.choice if judged is None else _choose(zero_shot, cache, judged, self.alpha, self.beta)
        return TipAdapter(zero_shot, cache, choice, trained=True)


def key_loss(
    support: Support, mode: Mode, logits: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a loss of rows; `logits(rows, allowed)` multiplies affinities by `allowed` [b, m], 0 for itself."""
    targets, relevance = support.shares.double(), support.relevance.double()
    alone = (targets.sum(0) - targets).gather(1, targets.argmax(1, keepdim=True)) < 1e-3  # [m, 1]
    itself = (alone | (mode == "published")).to(targets)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        rows = rows.to(targets.device)
        allowed = targets.new_ones(len(rows), len(targets)).scatter_(1, rows[:, None], itself[rows])
        losses = functional.cross_entropy(logits(rows, allowed), targets[rows], reduction="none")
        return (relevance[rows] * losses).sum() / relevance[rows].sum().clamp(min=1e-6)

    return loss


def accuracy(classifier: Classifier, validation: Validation) -> float:
    """Return the share of validation images whose largest logit is that of their label."""
    logits = classifier(replace(validation.features, pooled=wide(validation.features.pooled)))
    targets = one_label("validation set", validation.targets).to(logits.device)
    return float((logits.argmax(1) == targets).float().mean())


def _choose(
    zero_shot: ZeroShot, cache: Cache, judged: Judged | None, alpha: float | None, beta: float | None
) -> Choice:
    if alpha is not None and beta is not None:
        return Choice(alpha, beta)
    if judged is None:
        return Choice(ALPHA if alpha is None else alpha, BETA if beta is None else beta, by="default")
    alphas, betas = ALPHAS if alpha is None else (alpha,), BETAS if beta is None else (beta,)
    return choose(judged, cache, scale=zero_shot.scale, alphas=alphas, betas=betas)


def _loss(training: TipAdapter, support: Support, mode: Mode) -> Callable[[torch.Tensor], torch.Tensor]:
    features = support.features.double()
    texts = training.zero_shot(Features(features))
    factor = training.choice.alpha * training.zero_shot.scale / 100

    def logits(rows: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        affinities = affinities_of(training.cache.cosines(features[rows]), training.choice.beta)
        return texts[rows] + factor * training.cache.count(affinities * allowed)

    return key_loss(support, mode, logits)

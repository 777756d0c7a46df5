"""BALLAD, phase B: a matrix on image features, trained on class-balanced samples, for long-tailed classes.

    f' = share A f + (1 - share) f        logits = scale normalise(f') W + bias

Ma et al., 2021 (arXiv 2111.14745); phase A is `adapt` with the objective `labels` and `head = "texts"`. The sampler
visits the classes in turn, four images at a time. Defaults are those for ImageNet-LT: share 0.2, SGD 0.2 (for scale
100), momentum 0.9, weight decay 5e-4, batches of 512, 10 epochs (here at least 100 steps), a cosine (here per step).
The direction of f' does not depend on the length of f, so unit features suffice. A starts at the identity, so that
the untrained head equals zero-shot; the authors' random start is `start="random"`. A class without images keeps its
text logit and is left out of the loss.

From the identity, SGD changes A only within the span of images and texts, with an orthonormal basis Q [r, d]; outside
it, A stays rho times the identity. So the adapter is trained, exactly, on r + 1 coordinates:

    f -> (Q f, |f - Q'Q f|)        A = Q' B Q + rho (I - Q'Q)        B [r, r] and rho the diagonal blocks trained
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import torch
from torch.nn import functional

from rag_clip.classifiers.evidence import Evidence, Held, gather_evidence, hold_out, wide
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support, Validation
from rag_clip.progress import Report, silent
from rag_clip.protocols import Encoder
from rag_clip.training.loop import Rows, Sampler, Schedule, train

SHARE = 0.2
IMAGES_PER_CLASS = 4
LEAST_STEPS = 100  # ten epochs are 2,260 steps on ImageNet-LT, but only ten on a small support set
PHASE_B = Schedule(10, 512, 0.2, "sgd", weight_decay=5e-4)


@dataclass(frozen=True, slots=True, eq=False)
class Ballad:
    """The text classifier and the adapter [d, d] of image features; classes outside `held` bool [c] keep their text."""

    zero_shot: ZeroShot
    adapter: torch.Tensor
    share: float
    held: torch.Tensor

    @property
    def labels(self) -> LabelSet:
        """The c classes."""
        return self.zero_shot.labels

    @property
    def parameters(self) -> int:
        """The number of trained values: those of the adapter."""
        return self.adapter.numel()

    def __call__(self, features: Features) -> torch.Tensor:
        """Return logits [n, c] on the device and in the dtype of `features.pooled`; computed in float32 or wider."""
        pooled = wide(features.pooled)
        logits = self.zero_shot(Features(adapt(pooled, self.adapter.to(pooled), share=self.share)))
        if not bool(self.held.all()):
            logits = torch.where(self.held.to(logits.device), logits, self.zero_shot(Features(pooled)))
        return logits.to(features.pooled.dtype)


@dataclass(frozen=True, slots=True)
class BalladSettings:
    """The `share` of the adapter, its `start`, and the schedule; by default as published (`adapter_schedule`).

    Raises ValueError for a share outside [0, 1].
    """

    share: float = SHARE
    start: Literal["identity", "random"] = "identity"
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"the adapter's share is {self.share}; it must lie in [0, 1]")

    def build(
        self,
        zero_shot: ZeroShot,
        support: Support,
        *,
        validation: Validation | None = None,
        encoder: Encoder | None = None,
        report: Report = silent,
    ) -> Ballad:
        """Learn the adapter of phase B on support images; with validation the best epoch is kept.

        Soft targets are learned as they are, and sampled as their largest class; an image counts by its relevance.
        Raises ValueError if support or validation do not fit the classifier.
        """
        evidence, schedule = gather_evidence(zero_shot, support), self.schedule or adapter_schedule(zero_shot, support)
        adapter = _start(evidence, self.start, schedule.seed)
        if bool(evidence.present.any()):
            exact = self.start == "identity" and schedule.optimiser == "sgd"
            basis = _span(evidence.images, zero_shot.weights) if exact else torch.eye(len(adapter)).to(adapter)
            trained = functional.pad(basis @ adapter @ basis.T, (0, 1, 0, 1)).float()
            trained[-1, -1] = 1
            trained.requires_grad_()
            text = replace(zero_shot, weights=_place(zero_shot.weights, basis))
            training = Ballad(text, trained, self.share, evidence.present)
            judged = None if validation is None else hold_out(zero_shot, validation, evidence.present)
            references = [
                name for name, trust in zip(support.references, support.relevance.tolist(), strict=True) if trust
            ]
            train(
                [trained],
                _adapter_loss(training, evidence, basis),
                Rows(len(evidence.images), class_aware(_classes(evidence, zero_shot.labels), references)),
                schedule=schedule,
                validate=None if judged is None else _accuracy(training, judged, basis),
                report=report,
            )
            inside, outside = trained.detach()[:-1, :-1].to(basis), trained.detach()[-1, -1].to(basis)
            adapter = basis.T @ inside @ basis + outside * (torch.eye(len(adapter)).to(basis) - basis.T @ basis)
        return Ballad(zero_shot, adapter.float(), self.share, evidence.present)


def adapter_schedule(zero_shot: ZeroShot, support: Support) -> Schedule:
    """Return the authors' schedule for the classifier's scale, with more epochs if theirs have under 100 steps.

    A step changes logits by scale^2 times the rate, so the rate, quoted for scale 100, is divided by (scale / 100)^2.
    """
    steps = math.ceil(len(support) / PHASE_B.batch_size)
    epochs = max(PHASE_B.epochs, math.ceil(LEAST_STEPS / steps))
    return replace(PHASE_B, epochs=epochs, rate=PHASE_B.rate * (100 / zero_shot.scale) ** 2)


def adapt(features: torch.Tensor, adapter: torch.Tensor, *, share: float) -> torch.Tensor:
    """Return f' [n, d]: the features [n, d] passed through the adapter [d, d], as unit rows."""
    return functional.normalize(share * features @ adapter.T + (1 - share) * features, dim=-1)


def class_aware(classes: Sequence[str], references: Sequence[str]) -> Sampler:
    """Return a sampler that visits the classes in random order and takes four images of each, also in random order.

    `classes` and `references` [m] name the class and the image of each row. Draws depend on them and the generator
    alone, not on the order of rows and classes. An epoch has as many images as there are rows.
    """
    members: dict[str, list[int]] = {}
    for name, _, row in sorted(zip(classes, references, range(len(classes)), strict=True)):
        members.setdefault(name, []).append(row)

    def draw(rows: int, generator: torch.Generator) -> torch.Tensor:
        queues = [_endless(group, generator) for group in members.values()]
        turns = _endless(range(len(queues)), generator)
        chosen = (row for turn in turns for row in islice(queues[turn], IMAGES_PER_CLASS))
        return torch.tensor(list(islice(chosen, rows)))

    return draw


def _endless(values: Sequence[int], generator: torch.Generator) -> Iterator[int]:
    while True:
        for index in torch.randperm(len(values), generator=generator).tolist():
            yield values[index]


def _classes(evidence: Evidence, labels: LabelSet) -> list[str]:
    return [labels.names[row] for row in evidence.shares.argmax(1).tolist()]


def _start(evidence: Evidence, start: str, seed: int) -> torch.Tensor:
    width = evidence.images.shape[1]
    if start == "identity":
        return torch.eye(width).to(evidence.images)
    generator = torch.Generator().manual_seed(seed)
    drawn = 2 * torch.rand(width, width, generator=generator) - 1
    return torch.mul(drawn, width**-0.5).to(evidence.images)


def _span(*rows: torch.Tensor) -> torch.Tensor:
    """Return an orthonormal basis [r, d] of the span of all rows [n, d], or the d axes if there are d rows or more."""
    stacked = torch.cat([part.to(rows[0]) for part in rows])
    if len(stacked) >= stacked.shape[1]:
        return torch.eye(stacked.shape[1]).to(stacked)
    basis: torch.Tensor = torch.linalg.qr(stacked.T)[0].T
    return basis


def _place(rows: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Return coordinates float32 [n, r + 1] of rows [n, d]: in the basis [r, d], and the length outside its span."""
    rows = rows.to(basis)
    inside = rows @ basis.T
    return torch.cat([inside, torch.linalg.vector_norm(rows - inside @ basis, dim=1, keepdim=True)], 1).float()


def _adapter_loss(training: Ballad, evidence: Evidence, basis: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    images = _place(evidence.images, basis)
    shares, relevance = evidence.shares[:, evidence.present].float(), evidence.shares.sum(1).float()  # [m, h], [m]

    def loss(rows: torch.Tensor) -> torch.Tensor:
        rows = rows.to(relevance.device)
        logits = training(Features(images[rows]))[:, evidence.present]  # [b, h]
        losses = functional.cross_entropy(logits, shares[rows] / relevance[rows, None], reduction="none")
        mean: torch.Tensor = (relevance[rows] * losses).sum() / relevance[rows].sum()
        return mean

    return loss


def _accuracy(training: Ballad, judged: Held, basis: torch.Tensor) -> Callable[[], float]:
    images = Features(_place(judged.images, basis))
    return lambda: float((training(images).argmax(1) == judged.targets.argmax(1)).float().mean())

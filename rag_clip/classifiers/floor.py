"""A floor for every head: held-out images decide how much of it to use, and the texts alone are always an option.

    logits = z + t (h - z)        z zero-shot, h the head, t in {0, 0.1, 0.25, 0.5, 0.75, 1}

The head is built again without some of the labelled images and judged on them: on the shots of each class in up to four
folds, and on validation images in two halves, where one half chooses the head's settings and the other judges. A t is
accepted if it has more of these images right than the texts by at least one standard error of the paired difference; or
no fewer right, and a cross-entropy lower by more than one standard error (each at its best temperature). Among the
accepted t, the largest whose accuracy is within one standard error of the best is used: the head as published, unless
some images speak against it. If no t is accepted, the texts alone are used (t = 0).

A few images cannot overrule the prior knowledge about a head. With fewer than four judged images per class, t is at
most min(1, caution * e), where e is the share of the support images that the texts classify wrongly (with half an error
added) and `caution` is a constant of the head (none: the bound is 1). That bound is also used if the images accept no t
but lose nothing by it. If no image can judge (one shot per class, or images that the texts found or generated, which
agree with them), t is the bound. The method is ours. The data that the constants were chosen on: docs/decisions.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch.nn import functional

from rag_clip.classifiers.evidence import TEMPERATURES, one_label, shots_of
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, SeveralLabels, Support, Validation
from rag_clip.progress import ProgressEvent, Report, silent
from rag_clip.protocols import Classifier

STRENGTHS = (0.1, 0.25, 0.5, 0.75, 1.0)
FOLDS = 4
ENOUGH = 4  # judged images per class from which the head's caution is ignored
Build = Callable[[Support, "Validation | None"], Classifier]


@dataclass(frozen=True, slots=True, eq=False)
class Floored:
    """A head mixed with the texts by `strength` t in [0, 1].

    t was chosen on `images` judged images; `by` is "text errors" if there were none, and t is the bound.
    """

    zero_shot: ZeroShot
    head: Classifier
    strength: float
    by: Literal["judged images", "text errors"]
    images: int

    @property
    def labels(self) -> LabelSet:
        """The c classes."""
        return self.zero_shot.labels

    @property
    def parameters(self) -> int:
        """The number of values that the head trained."""
        return getattr(self.head, "parameters", 0)

    def __call__(self, features: Features) -> torch.Tensor:
        """Return logits [n, c] on the device and in the dtype of `features.pooled`."""
        if self.strength == 1:
            return self.head(features)
        text = self.zero_shot(features)
        return text if self.strength == 0 else text + self.strength * (self.head(features) - text)


@torch.no_grad()
def floored(
    zero_shot: ZeroShot,
    build: Build,
    support: Support,
    *,
    validation: Validation | None = None,
    caution: float | None = None,
    report: Report = silent,
) -> Floored:
    """Build a head by `build(support, validation)`, and decide how much of it to use.

    zero_shot: the classifier of the texts.
    build: builds the head from a part of the support and validation images.
    support: the support images.
    validation: images on which settings are chosen and the head is judged.
    caution: limits t when few images judge; None does not limit it.
    report: called with the progress.

    With several labels per image nothing is judged and the head is used in full. Raises what `build` raises.
    """
    head = _with_gradients(build, support, validation)
    several = support.several or (validation is not None and isinstance(validation.targets, SeveralLabels))
    splits = [] if several else [*_shot_folds(support, validation), *_validation_halves(support, validation)]
    parts = []
    for number, (kept, chooses, images, targets) in enumerate(splits):
        report(ProgressEvent("floor", number, len(splits), "fits"))
        parts.append((zero_shot(images), _with_gradients(build, kept, chooses)(images), targets))
    bound = 1.0 if several else _bound(zero_shot, support, caution)
    return _settle(zero_shot, head, parts, bound)


@torch.no_grad()
def floored_whole(zero_shot: ZeroShot, head: Classifier, validation: Validation | None) -> Floored:
    """Decide how much of a head to use that cannot be built from parts of its images: validation images judge alone.

    Without them the head is used in full. Raises ValueError for images with several labels.
    """
    if validation is None:
        return Floored(zero_shot, head, 1.0, "text errors", 0)
    images, targets = validation.features, one_label("validation set", validation.targets)
    return _settle(zero_shot, head, [(zero_shot(images), head(images), targets)], 1.0)


def _settle(
    zero_shot: ZeroShot,
    head: Classifier,
    parts: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    bound: float,
) -> Floored:
    """Choose t from logits of the texts and of the head on images unseen by it, and their classes, in parts."""
    if not parts:
        return Floored(zero_shot, head, bound, "text errors", 0)
    text, other, targets = (torch.cat(column) for column in zip(*parts, strict=True))  # [n, c], [n, c], [n]
    strength = choose_strength(text, other, targets)
    if len(targets) < ENOUGH * len(set(targets.tolist())):
        blend = text + bound * (other - text)
        lost = int((text.argmax(1) == targets).sum()) - int((blend.argmax(1) == targets).sum())
        strength = bound if strength == 0 and lost <= 0 else min(bound, strength)
    return Floored(zero_shot, head, strength, "judged images", len(targets))


def _bound(zero_shot: ZeroShot, support: Support, caution: float | None) -> float:
    if caution is None:
        return 1.0
    wrong = zero_shot(Features(support.features)).argmax(1) != support.shares.argmax(1)
    return min(1.0, caution * (float(wrong.sum()) + 0.5) / (len(wrong) + 1))


def choose_strength(text: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> float:
    """Return t from logits [n, c] of the texts and of a head on images unseen by it, with classes `targets` [n]."""
    text, head = text.double(), head.double()
    blends = [text + strength * (head - text) for strength in STRENGTHS]
    right = (text.argmax(1) == targets).double()
    more = torch.stack([(blend.argmax(1) == targets).double() - right for blend in blends])  # [t, n]
    losses = _losses(text, targets)
    less = torch.stack([losses - _losses(blend, targets) for blend in blends])  # [t, n]
    kept = [
        row
        for row in range(len(STRENGTHS))
        if float(more[row].mean()) >= max(_error(more[row]), 1e-9)
        or (float(more[row].mean()) >= 0 and float(less[row].mean()) > _error(less[row]))
    ]
    if not kept:
        return 0.0
    best = more[max(kept, key=lambda row: (float(more[row].mean()), row))]
    near = [row for row in kept if float((best - more[row]).mean()) <= _error(best - more[row]) + 1e-9]
    return STRENGTHS[max(near)]


def _error(values: torch.Tensor) -> float:
    """Return the standard error of the mean."""
    return float(values.std()) / len(values) ** 0.5 if len(values) > 1 else float("inf")


def _losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of each row, at the temperature with the lowest mean."""
    candidates = [functional.cross_entropy(step * logits, targets, reduction="none") for step in TEMPERATURES]
    return min(candidates, key=lambda losses: float(losses.mean()))


def _with_gradients(build: Build, support: Support, validation: Validation | None) -> Classifier:
    with torch.enable_grad():
        return build(support, validation)


Split = tuple[Support, "Validation | None", Features, torch.Tensor]


def _shot_folds(support: Support, validation: Validation | None) -> Iterator[Split]:
    """Yield the support without a fold, the validation set, and the fold's images and classes."""
    shots = (shots_of(support) & (support.relevance > 0)).cpu()
    targets = support.shares.argmax(1).cpu()
    fold = torch.full((len(support),), -1)
    for rows in _groups(targets, shots, support.references):
        if len(rows) > 1:
            fold[rows] = torch.arange(len(rows)) % FOLDS
    for number in range(int(fold.max()) + 1):
        out = fold == number
        images = Features(support.features[out], others={name: rows[out] for name, rows in support.others.items()})
        yield _take(support, ~out), validation, images, targets[out].to(support.features.device)


def _validation_halves(support: Support, validation: Validation | None) -> Iterator[Split]:
    """Yield the support, one half of the validation images, and the other half's images and classes."""
    if validation is None or len(validation.targets) < 2:
        return
    classes = one_label("validation set", validation.targets)
    targets = classes.cpu()
    half = torch.zeros(len(targets), dtype=torch.int64)
    everything = torch.ones(len(targets), dtype=torch.bool)
    ranks = {name: rank for rank, name in enumerate(sorted(validation.labels.names))}
    for rows in _groups(targets, everything, ()):
        half[rows] = (torch.arange(len(rows)) + ranks[validation.labels.names[int(targets[rows[0]])]]) % 2
    for number in range(2):
        out = half == number
        if bool(out.any()) and not bool(out.all()):
            yield support, _part(validation, ~out), _part(validation, out).features, classes[out]


def _groups(targets: torch.Tensor, among: torch.Tensor, references: Sequence[str]) -> Iterator[torch.Tensor]:
    """Yield the rows of each class, in the order of their references if given."""
    for target in sorted(set(targets[among].tolist())):
        rows = ((targets == target) & among).nonzero()[:, 0].tolist()
        yield torch.tensor(sorted(rows, key=lambda row: references[row]) if references else rows)


def _take(support: Support, rows: torch.Tensor) -> Support:
    numbers = rows.nonzero()[:, 0].tolist()
    return replace(
        support,
        features=support.features[rows],
        targets=support.targets[rows],
        relevance=support.relevance[rows],
        origin=tuple(support.origin[row] for row in numbers),
        references=tuple(support.references[row] for row in numbers),
        others={name: values[rows] for name, values in support.others.items()},
    )


def _part(validation: Validation, rows: torch.Tensor) -> Validation:
    features = validation.features
    others = {name: values[rows] for name, values in features.others.items()}
    return Validation(Features(features.pooled[rows], others=others), validation.labels, validation.targets[rows])

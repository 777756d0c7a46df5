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
added) and `caution` is a constant of the head (none: the bound is 1), unless one and a half standard errors prove more.
If they accept no t, the largest up to the bound is used by which none of them is lost. If no image can judge (one shot
per class), t is the bound.

Images that were found or generated for names judge only where no labelled image can. What the texts chose agrees with
the texts, so more images right proves a head only by two standard errors. Where that is not reached, each image, left
out in its fold, must tell its class from the class that the texts place next,

    t = 3/4 max(0, 1 - err / e)      err: share of images with (h - z)_own <= (h - z)_next;  e: mean (1 - max softmax z)

so a head that errs there as often as the texts expect to err anywhere counts nothing. Heads that weigh such images
themselves are used in full. The method is ours. The data that the constants were chosen on: docs/decisions.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch.nn import functional

from rag_clip.classifiers.evidence import TEMPERATURES, found_of, one_label, shots_of
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, SeveralLabels, Support, Validation
from rag_clip.progress import ProgressEvent, Report, silent
from rag_clip.protocols import Classifier

STRENGTHS = (0.1, 0.25, 0.5, 0.75, 1.0)
FOLDS = 4
ENOUGH = 4  # judged images per class from which the head's caution is ignored
ERRORS_BY_FEW = 1.5  # standard errors by which fewer must prove a head to overrule its caution
MOST_BY_FOUND = 0.75
ERRORS_BY_FOUND = 2.0  # standard errors by which images that were found must prove a head
Build = Callable[[Support, "Validation | None"], Classifier]
Split = tuple[Support, "Validation | None", Features, torch.Tensor]
Parts = Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]  # text logits [n, c], head logits [n, c], classes [n]


@dataclass(frozen=True, slots=True, eq=False)
class Floored:
    """A head mixed with the texts by `strength` t in [0, 1].

    t was chosen on `images` images, which were labelled ("judged images") or found for names ("found images"); `by` is
    "text errors" if there were none, and t is the bound.
    """

    zero_shot: ZeroShot
    head: Classifier
    strength: float
    by: Literal["judged images", "found images", "text errors"]
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
    weighs_found: bool = False,
    report: Report = silent,
) -> Floored:
    """Build a head by `build(support, validation)`, and decide how much of it to use.

    zero_shot: the classifier of the texts.
    build: builds the head from a part of the support and validation images.
    support: the support images.
    validation: images on which settings are chosen and the head is judged.
    caution: limits t when few images judge; None does not limit it.
    weighs_found: the head itself gives images that are not labelled their weight, so they do not judge it.
    report: called with the progress.

    With several labels per image nothing is judged and the head is used in full. Raises what `build` raises.
    """
    head = _with_gradients(build, support, validation)
    several = support.several or (validation is not None and isinstance(validation.targets, SeveralLabels))
    if several:
        return Floored(zero_shot, head, 1.0, "text errors", 0)

    def judged(splits: Sequence[Split]) -> Parts:
        parts = []
        for number, (kept, chooses, images, targets) in enumerate(splits):
            report(ProgressEvent("floor", number, len(splits), "fits"))
            parts.append((zero_shot(images), _with_gradients(build, kept, chooses)(images), targets))
        return parts

    shots = shots_of(support)
    splits = [*_folds(support, validation, shots), *_validation_halves(support, validation)]
    found = found_of(support)
    if not splits and not weighs_found and bool(found.any()):
        parts = judged([*_folds(support, validation, found)])
        return _settle_by_found(zero_shot, head, parts)
    return _settle(zero_shot, head, judged(splits), _bound(zero_shot, support, caution))


@torch.no_grad()
def floored_whole(zero_shot: ZeroShot, head: Classifier, validation: Validation | None) -> Floored:
    """Decide how much of a head to use that cannot be built from parts of its images: validation images judge alone.

    Without them the head is used in full. Raises ValueError for images with several labels.
    """
    if validation is None:
        return Floored(zero_shot, head, 1.0, "text errors", 0)
    images, targets = validation.features, one_label("validation set", validation.targets)
    targets = targets.to(images.pooled.device)
    return _settle(zero_shot, head, [(zero_shot(images), head(images), targets)], 1.0)


def _settle(zero_shot: ZeroShot, head: Classifier, parts: Parts, bound: float) -> Floored:
    """Choose t from logits of the texts and of the head on images unseen by it, and their classes, in parts."""
    if not parts:
        return Floored(zero_shot, head, bound, "text errors", 0)
    text, other, targets = _together(parts)
    strength = choose_strength(text, other, targets)
    if len(targets) < ENOUGH * len(set(targets.tolist())):
        strength = _with_few(text, other, targets, strength=strength, bound=bound)
    return Floored(zero_shot, head, strength, "judged images", len(targets))


def _with_few(text: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, *, strength: float, bound: float) -> float:
    """Return t where few images judge: `strength`, which they chose, within the bound that the head's caution sets."""

    def more(strength: float) -> torch.Tensor:
        blend = text + strength * (head - text)
        return (blend.argmax(1) == targets).double() - (text.argmax(1) == targets).double()

    if strength == 0:
        return max(
            (each for each in (*STRENGTHS, bound) if each <= bound and float(more(each).sum()) >= 0), default=0.0
        )
    if strength > bound and float(more(strength).mean()) < max(ERRORS_BY_FEW * _error(more(strength)), 1e-9):
        return bound
    return strength


def _settle_by_found(zero_shot: ZeroShot, head: Classifier, parts: Parts) -> Floored:
    """Choose t as `_settle` does, from images found for classes; without any (one image a class) the texts are used."""
    if not parts:
        return Floored(zero_shot, head, 0.0, "found images", 0)
    text, other, targets = _together(parts)
    return Floored(zero_shot, head, strength_by_found(text, other, targets), "found images", len(targets))


def _together(parts: Parts) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the logits of texts and head [n, c], and the classes [n], of all parts."""
    text, head, targets = (torch.cat(column) for column in zip(*parts, strict=True))
    return text, head, targets


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


def strength_by_found(text: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> float:
    """Return t from logits [n, c] on images found for the classes `targets` [n], with a head that has not seen them."""
    text, added = text.double(), (head - text).double()
    right = (text.argmax(1) == targets).double()
    proved = 0.0
    for strength in STRENGTHS:
        more = ((text + strength * added).argmax(1) == targets).double() - right
        if float(more.mean()) >= max(ERRORS_BY_FOUND * _error(more), 1e-9):
            proved = strength
    own = targets[:, None]
    other = text.scatter(1, own, -torch.inf).argmax(1, keepdim=True)
    wrong = float((added.gather(1, own) <= added.gather(1, other)).double().mean())
    expected = float((1 - text.softmax(1).amax(1)).mean())
    return max(proved, MOST_BY_FOUND * max(0.0, 1 - wrong / max(expected, 1e-9)))


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


def _folds(support: Support, validation: Validation | None, among: torch.Tensor) -> Iterator[Split]:
    """Yield the support without a fold of the rows `among` [m], validation set, the fold's images and its classes."""
    counted = (among & (support.relevance > 0)).cpu()
    targets = support.shares.argmax(1).cpu()
    fold = torch.full((len(support),), -1)
    for rows in _groups(targets, counted, support.references):
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
            judges = _part(validation, out).features
            yield support, _part(validation, ~out), judges, classes[out].to(judges.pooled.device)


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
        pixels=None if support.pixels is None else support.pixels[rows.to(support.pixels.device)],
    )


def _part(validation: Validation, rows: torch.Tensor) -> Validation:
    features = validation.features
    others = {name: values[rows] for name, values in features.others.items()}
    return Validation(Features(features.pooled[rows], others=others), validation.labels, validation.targets[rows])

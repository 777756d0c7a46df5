"""Accuracy from logits [n, c] and targets [n], and which classes are confused.

A tie counts as an error everywhere: an image is correct only if its label scores strictly above every other class.
Otherwise a classifier that gives all classes the same score would gain accuracy from their order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rag_clip.display import counted


def check_logits(logits: torch.Tensor, targets: torch.Tensor) -> None:
    """Raise ValueError unless logits [n, c] and targets [n] can be evaluated.

    Refuses logits that are not finite and targets outside the c classes (the message names the first row), no image,
    no class, other shapes, and targets that are not int64 or int32.
    """
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"logits have shape {tuple(logits.shape)}; expected [n, c], a column per class")
    if len(logits) == 0:
        raise ValueError("there is no image to evaluate; give at least one row of logits")
    if targets.shape != (len(logits),):
        raise ValueError(
            f"targets have shape {tuple(targets.shape)} for {counted(len(logits), 'row')} of logits; give one each"
        )
    if targets.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"targets are {targets.dtype}; give the number of each image's class as int64")
    outside = (targets < 0) | (targets >= logits.shape[1])
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"the target of row {row} is {int(targets[row])}, outside the {counted(logits.shape[1], 'class')}; count "
            "from 0"
        )
    check_finite(logits)


def check_finite(logits: torch.Tensor) -> None:
    """Raise ValueError, naming the first row, for logits [n, c] that are not finite."""
    # One sum is many times faster than a test of each value. It may overflow, so only a finite sum is conclusive.
    if bool(logits.sum().isfinite()):
        return
    finite = logits.isfinite().all(dim=1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise ValueError(f"row {row} of the logits holds NaN or infinity; classify that image again or leave it out")


def is_right(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return whether each image's label scores strictly above all other classes, bool [n]; raises as `check_logits`."""
    check_logits(logits, targets)
    return count_above(logits, targets) == 0


def count_above(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the number of other classes that score at least as high as the label, int64 [n]."""
    own = logits.gather(1, targets[:, None].long())  # [n, 1]
    return (logits >= own).sum(1) - 1


def accuracy(logits: torch.Tensor, targets: torch.Tensor, *, k: int = 1) -> float:
    """Return top-k accuracy: the share of images whose label is among the `k` best classes; a tie counts as an error.

    Raises ValueError for k below 1, and as `check_logits`.
    """
    if k < 1:
        raise ValueError(f"k is {k}; ask for the accuracy among at least one class")
    check_logits(logits, targets)
    return float((count_above(logits, targets) < k).double().mean())


@dataclass(frozen=True, slots=True, eq=False)
class PerClass:
    """Results per class.

    images: images of the class, int64 [c].
    right: correct ones among them, int64 [c].
    predicted: images that were predicted as the class, int64 [c].
    recall: float64 [c]; NaN for a class without images.
    precision: float64 [c]; NaN for a class that was never predicted.
    """

    images: torch.Tensor
    right: torch.Tensor
    predicted: torch.Tensor
    recall: torch.Tensor
    precision: torch.Tensor


def per_class(logits: torch.Tensor, targets: torch.Tensor) -> PerClass:
    """Count images, correct images and predictions per class; a tie with the label counts as an error."""
    check_logits(logits, targets)
    classes = logits.shape[1]
    predictions = predict(logits, targets)
    images = torch.bincount(targets, minlength=classes)
    predicted = torch.bincount(predictions, minlength=classes)
    right = torch.bincount(targets[predictions == targets], minlength=classes)
    return PerClass(images, right, predicted, right.double() / images, right.double() / predicted)


def mean_per_class(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the mean recall over the classes that have images."""
    return float(per_class(logits, targets).recall.nanmean())


def predict(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the predicted class, int64 [n]; where the label ties for first place, another of the tied classes."""
    predictions = logits.argmax(1)
    own = logits.gather(1, targets[:, None].long())  # [n, 1]
    tied = ((logits >= own).sum(1) > 1) & (own[:, 0] == logits.amax(1))  # [n]
    rest = logits[tied].scatter(1, targets[tied, None].long(), -torch.inf)
    predictions[tied] = rest.argmax(1)
    return predictions


@dataclass(frozen=True, slots=True)
class Confusion:
    """`images` of class `label` were predicted as class `prediction`; `share` is their share of the label's images."""

    label: int
    prediction: int
    images: int
    share: float


def confusion_matrix(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Count images by label (rows) and prediction (columns), int64 [c, c]."""
    check_logits(logits, targets)
    classes = logits.shape[1]
    cells = targets.long() * classes + predict(logits, targets)
    return torch.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def confusion_pairs(logits: torch.Tensor, targets: torch.Tensor, *, most: int = 20) -> tuple[Confusion, ...]:
    """List the `most` (label, wrong prediction) pairs with the most images; equal counts come in class order."""
    counts = confusion_matrix(logits, targets)
    images = counts.sum(1)
    wrong = counts.clone().fill_diagonal_(0)
    cells = wrong.flatten().argsort(descending=True, stable=True)[:most].tolist()
    pairs = [(cell // len(wrong), cell % len(wrong)) for cell in cells]
    return tuple(
        Confusion(label, prediction, int(wrong[label, prediction]), float(wrong[label, prediction] / images[label]))
        for label, prediction in pairs
        if wrong[label, prediction] > 0
    )

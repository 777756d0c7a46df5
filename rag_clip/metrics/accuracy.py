"""Accuracy from logits [n, c] and targets [n], and which classes are taken for which.

A tie counts against the label everywhere: an image is right only where its label scores strictly above every other
class, so that a classifier that cannot tell classes apart earns nothing by their order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


def check_logits(logits: torch.Tensor, targets: torch.Tensor) -> None:
    """Refuse what cannot be measured.

    Raises ValueError, naming the first row, for logits [n, c] that are not finite and targets [n] that are none of the
    c classes; and for no image, no class, other shapes, and targets that are not int64 or int32.
    """
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"logits have shape {tuple(logits.shape)}; expected [n, c], a column per class")
    if len(logits) == 0:
        raise ValueError("there is no image to evaluate; give at least one row of logits")
    if targets.shape != (len(logits),):
        raise ValueError(f"targets have shape {tuple(targets.shape)} for {len(logits)} rows of logits; give one each")
    if targets.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"targets are {targets.dtype}; give the number of each image's class as int64")
    outside = (targets < 0) | (targets >= logits.shape[1])
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"the target of row {row} is {int(targets[row])}, outside the {logits.shape[1]} classes; count from 0"
        )
    check_finite(logits)


def check_finite(logits: torch.Tensor) -> None:
    """Raise ValueError, naming the first row, for logits [n, c] that are not finite."""
    # One sum shows whether anything is not finite, many times faster than looking at each; it may overflow by itself.
    if bool(logits.sum().isfinite()):
        return
    finite = logits.isfinite().all(dim=1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise ValueError(f"row {row} of the logits holds NaN or infinity; classify that image again or leave it out")


def is_right(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Tell, as bool [n], which images have their label strictly above all other classes; checks its input."""
    check_logits(logits, targets)
    return count_above(logits, targets) == 0


def count_above(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Count, int64 [n], the other classes that score at least as high as the label."""
    own = logits.gather(1, targets[:, None].long())
    return (logits >= own).sum(1) - 1


def accuracy(logits: torch.Tensor, targets: torch.Tensor, *, k: int = 1) -> float:
    """Return the share of images that fewer than `k` other classes score at least as high as the label for.

    Raises ValueError for k below 1, and for what `check_logits` refuses.
    """
    if k < 1:
        raise ValueError(f"k is {k}; ask for the accuracy among at least one class")
    check_logits(logits, targets)
    return float((count_above(logits, targets) < k).double().mean())


@dataclass(frozen=True, slots=True, eq=False)
class PerClass:
    """What became of each class: `images`, `right` and `predicted` int64 [c], `recall` and `precision` float64 [c].

    Recall is NaN for a class without images, precision for one that no image was put in.
    """

    images: torch.Tensor
    right: torch.Tensor
    predicted: torch.Tensor
    recall: torch.Tensor
    precision: torch.Tensor


def per_class(logits: torch.Tensor, targets: torch.Tensor) -> PerClass:
    """Count images, right ones and predictions by class; a tie goes to another class than the label."""
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
    """Return the winning class, int64 [n]; where the label ties for the first place, another class that holds it."""
    predictions = logits.argmax(1)
    own = logits.gather(1, targets[:, None].long())
    tied = ((logits >= own).sum(1) > 1) & (own[:, 0] == logits.amax(1))
    rest = logits[tied].scatter(1, targets[tied, None].long(), -torch.inf)
    predictions[tied] = rest.argmax(1)
    return predictions


@dataclass(frozen=True, slots=True)
class Confusion:
    """`images` of class `label` were put in class `prediction`, a `share` of that class's images."""

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
    """List the `most` pairs of label and wrong prediction with the most images, in class order where equal."""
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

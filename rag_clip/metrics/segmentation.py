"""Mean intersection over union of segmented images.

    IoU_k = TP_k / (TP_k + FP_k + FN_k), summed over the pixels of all images;      mIoU = mean over the classes present

A class is present if it has a pixel in the truth of any image. Background is a class like the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class Overlap:
    """Pixel counts per class, int64 [c]: of the `intersection`, of what was `predicted`, and of the `truth`."""

    intersection: torch.Tensor
    predicted: torch.Tensor
    truth: torch.Tensor

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.intersection + other.intersection, self.predicted + other.predicted, self.truth + other.truth
        )

    @property
    def present(self) -> torch.Tensor:
        """Whether each class has a pixel in the truth, bool [c]."""
        return self.truth > 0

    @property
    def iou(self) -> torch.Tensor:
        """The intersection over union of each class, float64 [c]; NaN for a class in neither prediction nor truth."""
        return self.intersection.double() / (self.predicted + self.truth - self.intersection)

    @property
    def mean_iou(self) -> float:
        """The mean over the classes present; raises ValueError if there is none."""
        if not self.present.any():
            raise ValueError("no pixel of the truth has a class, so there is no mean over classes")
        return float(self.iou[self.present].mean())


def overlap(predicted: torch.Tensor, truth: torch.Tensor, *, classes: int) -> Overlap:
    """Return the pixel counts of predicted against true classes, integers of one shape, 0 to `classes` - 1.

    Pixels whose truth is negative are ignored. Raises ValueError for shapes that differ, or a class out of range.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"prediction and truth have shapes {tuple(predicted.shape)} and {tuple(truth.shape)}")
    counted = truth >= 0
    found, wanted = predicted[counted], truth[counted]
    for each in (found, wanted):
        if len(each) and not 0 <= int(each.min()) <= int(each.max()) < classes:
            raise ValueError(f"classes go from {int(each.min())} to {int(each.max())}; there are {classes}")
    right = found[found == wanted]
    return Overlap(*(torch.bincount(each, minlength=classes) for each in (right, found, wanted)))

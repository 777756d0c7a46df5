"""Measures of a ranking of images: ROC-AUC, and average precision plain and at eleven points of recall.

Scores of images that tie stand at one threshold, so that no measure depends on the order of the images.
"""

from __future__ import annotations

import torch


def roc_auc(scores: torch.Tensor, positive: torch.Tensor) -> float:
    """Return the share of (positive, negative) pairs that `scores` [n] order rightly, a tie counting half.

    The Mann-Whitney form of the area under the ROC curve. `positive` is bool [n].
    Raises ValueError for scores that are not finite, other shapes, and where one of the two kinds is missing.
    """
    _check(scores, positive)
    negatives = int((~positive).sum())
    if negatives == 0:
        raise ValueError("every image is positive; ROC-AUC compares positives with negatives")
    ordered = scores.sort().values
    below, up_to = (torch.searchsorted(ordered, scores.contiguous(), right=right) for right in (False, True))
    ranks = (below + 1 + up_to).double() / 2
    positives = int(positive.sum())
    above = float(ranks[positive].sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives)


def average_precision(scores: torch.Tensor, positive: torch.Tensor) -> float:
    """Return the sum over thresholds of (recall gained) x precision, without interpolation; raises as `roc_auc`."""
    precision, recall = _precision_recall(scores, positive)
    return float((precision * recall.diff(prepend=recall.new_zeros(1))).sum())


def eleven_point_precision(scores: torch.Tensor, positive: torch.Tensor) -> float:
    """Return the mean, over recalls r in {0, 0.1, ..., 1}, of the best precision at a recall of at least r.

    The average precision of PASCAL VOC 2007 (Everingham et al., IJCV 2010); raises as `roc_auc`.
    """
    precision, recall = _precision_recall(scores, positive)
    best = precision.flip(0).cummax(0).values.flip(0)
    points = torch.arange(11, dtype=torch.float64, device=scores.device) / 10
    # A tolerance, for 3 of 10 positives are 0.3 of them and 0.30000000000000004 is a point.
    first = torch.searchsorted(recall, points - 1e-9)
    return float(best[first].mean())


def mean_average_precision(scores: torch.Tensor, labels: torch.Tensor, *, eleven_points: bool = False) -> float:
    """Return the mean over classes of the average precision of `scores` [n, c] for `labels` bool [n, c].

    An image may have several labels or none. Classes without a positive image are in no mean; `eleven_points` asks for
    the measure of VOC 2007. Raises ValueError where no class has a positive image, and as `roc_auc`.
    """
    if scores.shape != labels.shape or scores.ndim != 2:
        raise ValueError(f"scores are {tuple(scores.shape)} and labels {tuple(labels.shape)}; both must be [n, c]")
    held = labels.any(0).nonzero().flatten().tolist()
    if not held:
        raise ValueError("no class has a positive image; average precision needs one")
    measure = eleven_point_precision if eleven_points else average_precision
    return sum(measure(scores[:, column], labels[:, column]) for column in held) / len(held)


def _check(scores: torch.Tensor, positive: torch.Tensor) -> None:
    if scores.ndim != 1 or scores.shape != positive.shape or positive.dtype != torch.bool:
        raise ValueError(
            f"scores are {tuple(scores.shape)} and labels {positive.dtype} {tuple(positive.shape)}; "
            "give one score and one bool per image"
        )
    if not bool(scores.isfinite().all()):
        raise ValueError(f"the score of row {int((~scores.isfinite()).nonzero()[0])} is not finite")
    if not bool(positive.any()):
        raise ValueError("no image is positive; a ranking is measured by where its positives stand")


def _precision_recall(scores: torch.Tensor, positive: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    _check(scores, positive)
    ranked, order = scores.double().sort(descending=True, stable=True)
    last = torch.cat([ranked.diff() != 0, torch.ones(1, dtype=torch.bool, device=scores.device)])
    found = positive[order].cumsum(0)[last].double()
    return found / (last.nonzero().flatten() + 1), found / found[-1]

"""Ranking measures: ROC-AUC and average precision, plain or at eleven recall points.

Images with equal scores share one threshold, so no measure depends on the order of the images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


def roc_auc(scores: torch.Tensor, positive: torch.Tensor) -> float:
    """Return the share of (positive, negative) pairs that `scores` [n] order correctly; a tie counts half.

    The Mann-Whitney form of the area under the ROC curve. `positive` is bool [n].
    Raises ValueError for scores that are not finite, other shapes, and without a positive or without a negative.
    """
    _check(scores, positive)
    negatives = int((~positive).sum())
    if negatives == 0:
        raise ValueError("every image is positive; ROC-AUC compares positives with negatives")
    ordered = scores.sort().values
    below, up_to = (torch.searchsorted(ordered, scores.contiguous(), right=right) for right in (False, True))
    ranks = (below + 1 + up_to).double() / 2  # [n] from 1, the mean rank of tied scores
    positives = int(positive.sum())
    above = float(ranks[positive].sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives)


def false_positive_rate(scores: torch.Tensor, positive: torch.Tensor, *, recall: float = 0.95) -> float:
    """Return the share of negatives that score as high as the best `recall` of the positives, such as FPR95.

    scores: of the images, [n].
    positive: which images are positives, bool [n].
    recall: the least share of the positives at or above the threshold.

    Raises ValueError as `roc_auc`, and for a recall outside (0, 1].
    """
    if not 0 < recall <= 1:
        raise ValueError(f"the recall is {recall}; give a share above 0, up to 1")
    _check(scores, positive)
    if bool(positive.all()):
        raise ValueError("every image is positive; a false positive rate needs negatives")
    ranked = scores[positive].sort(descending=True).values
    threshold = ranked[math.ceil(recall * len(ranked) - 1e-9) - 1]  # 0.07 * 100 is above 7 in floats
    return float((scores[~positive] >= threshold).double().mean())


def average_precision(scores: torch.Tensor, positive: torch.Tensor) -> float:
    """Return the sum over thresholds of (recall gained) x precision, without interpolation; raises as `roc_auc`."""
    return float(_rank_one(scores, positive).precision()[0])


def eleven_point_precision(scores: torch.Tensor, positive: torch.Tensor) -> float:
    """Return the mean, over r in {0, 0.1, ..., 1}, of the best precision at a recall of at least r.

    The average precision of PASCAL VOC 2007 (Everingham et al., IJCV 2010); raises as `roc_auc`.
    """
    return float(_rank_one(scores, positive).precision()[1])


def mean_average_precision(scores: torch.Tensor, labels: torch.Tensor, *, eleven_points: bool = False) -> float:
    """Return the mean over classes of the average precision of `scores` [n, c] for `labels` bool [n, c].

    An image may have several labels or none. Classes without a positive image are left out of the mean.
    `eleven_points` selects the measure of VOC 2007. Raises as `rank_images`.
    """
    return float(rank_images(scores, labels).precision()[int(eleven_points)].nanmean())


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Images by falling score, for each class; computed once and measured for every bootstrap sample.

    order: row of the image at each rank, int64 [c, n].
    last: last rank with the same score, int64 [c, n].
    positive: whether the image at each rank is positive, bool [c, n].
    """

    order: torch.Tensor
    last: torch.Tensor
    positive: torch.Tensor

    def precision(self, counts: torch.Tensor | None = None) -> torch.Tensor:
        """Return average precision, plain and at eleven points, float64 [2, c]; NaN for a class without a positive.

        `counts` int64 [n] is how many times each image is in the sample, by default once.
        """
        times = torch.ones_like(self.order) if counts is None else counts[self.order]  # [c, n]
        positives = times * self.positive
        found = positives.cumsum(1).double()  # [c, n]
        # A sample may leave out the first images of a ranking: their cumulative count is 0.
        precision = (found / times.cumsum(1).clamp(min=1)).gather(1, self.last)
        total = found[:, -1:]  # [c, 1]
        plain = (positives * precision).sum(1) / total[:, 0]
        best = precision.flip(1).cummax(1).values.flip(1)  # [c, n] best precision at this recall or higher
        # Both sides in tenths of a positive are integers, so 3 of 10 positives reach recall 0.3 exactly.
        points = torch.arange(11, dtype=torch.float64, device=total.device) * total  # [c, 11]
        eleven = best.gather(1, torch.searchsorted(10 * found, points)).mean(1)
        return torch.stack([plain, eleven.where(total[:, 0] > 0, torch.nan)])


def rank_images(scores: torch.Tensor, labels: torch.Tensor) -> Ranking:
    """Rank images by `scores` [n, c] for each class of `labels` bool [n, c].

    Raises ValueError where no class has a positive image, and as `roc_auc`.
    """
    if scores.ndim != 2 or scores.shape != labels.shape or labels.dtype != torch.bool:
        raise ValueError(
            f"scores are {tuple(scores.shape)} and labels {labels.dtype} {tuple(labels.shape)}; "
            "both must be [n, c], labels as bool"
        )
    _check_scores(scores)
    if not bool(labels.any()):
        raise ValueError("no class has a positive image; average precision needs one")
    falling, order = (-scores.double().T).contiguous().sort(dim=1, stable=True)  # [c, n]
    last = torch.searchsorted(falling, falling, right=True) - 1
    return Ranking(order, last, labels.T.gather(1, order))


def _rank_one(scores: torch.Tensor, positive: torch.Tensor) -> Ranking:
    _check(scores, positive)
    return rank_images(scores[:, None], positive[:, None])


def _check(scores: torch.Tensor, positive: torch.Tensor) -> None:
    if scores.ndim != 1 or scores.shape != positive.shape or positive.dtype != torch.bool:
        raise ValueError(
            f"scores are {tuple(scores.shape)} and labels {positive.dtype} {tuple(positive.shape)}; "
            "give one score and one bool per image"
        )
    _check_scores(scores)
    if not bool(positive.any()):
        raise ValueError("no image is positive; a ranking is measured by where its positives stand")


def _check_scores(scores: torch.Tensor) -> None:
    finite = scores.isfinite().reshape(len(scores), -1).all(1)
    if not bool(finite.all()):
        raise ValueError(f"the score of row {int((~finite).nonzero()[0])} is not finite; classify that image again")

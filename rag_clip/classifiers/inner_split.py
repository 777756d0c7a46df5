"""Which training images judge the settings that the other images train with: the first fifth of each class.

The inner split of ELEVATER (Li et al., NeurIPS 2022, arXiv 2204.08790), who also split images with several labels
greedily. How they do so is not described in the paper; the rule below is ours.
"""

from __future__ import annotations

import math

import torch

from rag_clip.data import SeveralLabels, Targets

SHARE = 0.2


def judging_rows(targets: Targets) -> torch.Tensor:
    """Return which rows judge, bool [n]: the first ceil(0.2 n_k) of the n_k rows of each class, if others remain.

    `targets` are int64 [n], where rows of class -1 never judge, or SeveralLabels, where a row may have several classes.
    For SeveralLabels the rarest class comes first: it takes its first rows until enough of its rows judge, skipping
    rows that would leave one of their classes without training rows. Classes that occur together with others may give
    more than a fifth.
    """
    if isinstance(targets, SeveralLabels):
        return _of_several(targets.marks.cpu()).to(targets.device)
    judges = torch.zeros(len(targets), dtype=torch.bool, device=targets.device)
    for name in sorted(set(targets.tolist()) - {-1}):
        rows = (targets == name).nonzero()[:, 0]
        judges[rows[: _judging(len(rows))]] = True
    return judges


def _of_several(targets: torch.Tensor) -> torch.Tensor:
    counts: list[int] = targets.sum(0).tolist()
    training, judges = list(counts), torch.zeros(len(targets), dtype=torch.bool)
    for column in sorted(range(len(counts)), key=counts.__getitem__):
        for row in targets[:, column].nonzero()[:, 0].tolist():
            if counts[column] - training[column] >= _judging(counts[column]):
                break
            classes = targets[row].nonzero()[:, 0].tolist()
            if not judges[row] and min(training[number] for number in classes) > 1:
                judges[row] = True
                for number in classes:
                    training[number] -= 1
    return judges


def _judging(count: int) -> int:
    return min(math.ceil(SHARE * count), count - 1)

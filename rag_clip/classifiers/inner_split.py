"""Which training images judge the settings that the others train with: the first fifth of each class.

The inner split of ELEVATER (Li et al., NeurIPS 2022, arXiv 2204.08790), who split images of several labels greedily
too. How they do is not published in words; this is ours.
"""

from __future__ import annotations

import math

import torch

from rag_clip.data import SeveralLabels, Targets

SHARE = 0.2


def judging_rows(targets: Targets) -> torch.Tensor:
    """Return which rows judge, bool [n]: of each class of n_k rows the first ceil(0.2 n_k), where that leaves others.

    `targets` are int64 [n], rows of class -1 never judging; or SeveralLabels, where a row may be of several. Then
    the rarest class comes first, and takes its first rows until as many of its rows judge, passing over those that
    would leave one of their classes nothing to train on. Classes that go with others may give more than a fifth.
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
            if not judges[row] and min(training[each] for each in classes) > 1:
                judges[row] = True
                for each in classes:
                    training[each] -= 1
    return judges


def _judging(count: int) -> int:
    return min(math.ceil(SHARE * count), count - 1)

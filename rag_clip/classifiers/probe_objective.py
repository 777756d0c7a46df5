"""What a linear probe learns and is judged by: cross-entropy and accuracy, or of several labels, each for itself.

Of several labels per image, each class is a question of its own: binary cross-entropy, judged by the mean over classes
of the average precision at eleven recalls (PASCAL VOC 2007; Everingham et al., IJCV 2010), as in ELEVATER (Li et al.,
NeurIPS 2022, arXiv 2204.08790).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Objective:
    """`losses` [n] of images and their `judgement` in [0, 1], both of logits [n, h] and targets [n, h]."""

    losses: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    judgement: Callable[[torch.Tensor, torch.Tensor], float]


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return -(targets * logits.log_softmax(1)).sum(1)


def _accuracy(logits: torch.Tensor, targets: torch.Tensor) -> float:
    return float((logits.argmax(1) == targets.argmax(1)).double().mean())


def _binary_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


def eleven_point_means(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the 11-point average precision of logits [n, h], the mean over the classes that have images.

    `targets` [n, h] are ones and zeros. All classes at once, for it is asked after every epoch of a search. Images
    whose logits tie stand at one threshold.
    """
    held = targets.any(0)
    ranked, order = logits[:, held].sort(0, descending=True)
    found = targets[:, held].bool().gather(0, order).cumsum(0).double()
    precision = found / torch.arange(1, len(found) + 1, device=found.device)[:, None]
    within = ranked[1:] == ranked[:-1]
    precision[:-1][within] = 0  # no threshold lies between images that tie
    best = precision.flip(0).cummax(0).values.flip(0)
    recalls = torch.arange(11, dtype=torch.float64, device=found.device)[:, None] / 10
    needed = (recalls * found[-1] - 1e-6).T.contiguous()  # [h, 11]
    first = torch.searchsorted(found.T.contiguous(), needed)
    return float(best.T.gather(1, first).mean())


ONE_LABEL = Objective(_cross_entropy, _accuracy)
SEVERAL_LABELS = Objective(_binary_cross_entropy, eleven_point_means)

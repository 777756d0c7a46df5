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

from rag_clip.metrics.ranking import mean_average_precision


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


def _eleven_point_precision(logits: torch.Tensor, targets: torch.Tensor) -> float:
    return mean_average_precision(logits, targets.bool(), eleven_points=True)


ONE_LABEL = Objective(_cross_entropy, _accuracy)
SEVERAL_LABELS = Objective(_binary_cross_entropy, _eleven_point_precision)

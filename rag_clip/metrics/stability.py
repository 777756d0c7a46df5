"""How much predictions depend on the wording of class names: one name at a time is replaced by a synonym."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rag_clip.display import counted
from rag_clip.metrics.accuracy import is_right

BLOCK = 256


@dataclass(frozen=True, slots=True, eq=False)
class SwapStability:
    """The effect of each of s swaps.

    before: accuracy with the original names.
    kept: share of all images whose prediction stays the same, float64 [s].
    accuracy: accuracy after the swap, float64 [s].
    recall_before, recall: of the class whose name is swapped, float64 [s]; NaN for a class without images.
    """

    before: float
    kept: torch.Tensor
    accuracy: torch.Tensor
    recall_before: torch.Tensor
    recall: torch.Tensor


@torch.no_grad()
def swap_synonyms(
    features: torch.Tensor,
    targets: torch.Tensor,
    class_weights: torch.Tensor,
    synonym_weights: torch.Tensor,
    synonym_classes: torch.Tensor,
) -> SwapStability:
    """Replace the weights of one class at a time by those of a synonym, and measure predictions and accuracy.

    features: image features, [n, d].
    targets: classes of the images, int64 [n].
    class_weights: [c, d].
    synonym_weights: [s, d].
    synonym_classes: the class of each synonym, int64 [s].

    All other columns stay, so a swap costs one column of logits. A tie is never a win. Raises ValueError for no
    synonym, classes out of range, fewer than two classes, and as `metrics.check_logits`.
    """
    count = len(class_weights)
    if len(synonym_weights) == 0 or synonym_classes.shape != (len(synonym_weights),):
        raise ValueError(
            f"{tuple(synonym_classes.shape)} classes for {counted(len(synonym_weights), 'synonym')}; give one each"
        )
    if count < 2 or not 0 <= int(synonym_classes.min()) <= int(synonym_classes.max()) < count:
        raise ValueError(
            f"a synonym is of none of the {counted(count, 'class')}, or there are fewer than two; count from 0"
        )
    logits = features @ class_weights.T
    right = is_right(logits, targets)
    swapped = features @ synonym_weights.T
    if not bool(swapped.isfinite().all()):
        column = int((~swapped.isfinite().all(0)).nonzero()[0])
        raise ValueError(f"synonym {column} gives logits that are not finite; encode it again")
    found = [
        _swap(logits, targets, swapped[:, start : start + BLOCK], synonym_classes[start : start + BLOCK])
        for start in range(0, len(synonym_weights), BLOCK)
    ]
    kept, after, recall = (torch.cat(parts) for parts in zip(*found, strict=True))
    images = torch.bincount(targets, minlength=count).double()
    recall_before = torch.bincount(targets[right], minlength=count) / images
    return SwapStability(float(right.double().mean()), kept, after, recall_before[synonym_classes], recall)


def _swap(
    logits: torch.Tensor, targets: torch.Tensor, swapped: torch.Tensor, classes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return, per synonym, the share of unchanged predictions, the accuracy, and the recall of its class."""
    # Three best classes suffice: at most two of them are the label and the class whose name is swapped.
    values, top = logits.topk(min(3, logits.shape[1]), dim=1)  # [n, 3]
    other = top[:, :, None] != classes  # [n, 3, s]
    best = values[:, :, None].where(other, -torch.inf).amax(1)  # [n, s] best class that keeps its name
    kept = (logits[:, classes] > best) == (swapped > best)  # [n, s]
    wrong = other & (top != targets[:, None])[:, :, None]  # [n, 3, s]
    rival = values[:, :, None].where(wrong, -torch.inf).amax(1)  # [n, s] best wrong class that keeps its name
    own = logits.gather(1, targets[:, None].long())  # [n, 1]
    mine = targets[:, None] == classes  # [n, s]
    right = torch.where(mine, swapped > best, own > torch.maximum(rival, swapped))
    recall = (right & mine).sum(0).double() / mine.sum(0)
    return kept.double().mean(0), right.double().mean(0), recall

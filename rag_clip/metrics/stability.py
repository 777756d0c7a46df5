"""How far predictions depend on the word chosen for a class: one name at a time is swapped for a synonym."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rag_clip.metrics.accuracy import is_right

BLOCK = 256


@dataclass(frozen=True, slots=True, eq=False)
class SwapStability:
    """What each of s swaps does: `kept` float64 [s] is the share of all images whose prediction stays.

    `accuracy` float64 [s] is what it leaves of the accuracy `before`; `recall_before` and `recall` float64 [s] are of
    the class whose name is swapped, NaN where it has no image.
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
    """Put each synonym's weights [s, d] in place of its class's, int64 [s] of class weights [c, d], one at a time.

    Features are [n, d] and targets [n]. All other columns stay, so a swap costs one column of logits. A class wins an
    image only strictly. Raises ValueError for no synonym, classes out of range, fewer than two classes, and as
    `metrics.check_logits`.
    """
    count = len(class_weights)
    if len(synonym_weights) == 0 or synonym_classes.shape != (len(synonym_weights),):
        raise ValueError(f"{tuple(synonym_classes.shape)} classes for {len(synonym_weights)} synonyms; give one each")
    if count < 2 or not 0 <= int(synonym_classes.min()) <= int(synonym_classes.max()) < count:
        raise ValueError(f"a synonym is of none of the {count} classes, or there are fewer than two; count from 0")
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
    """Return, per synonym, the share of predictions kept, the accuracy, and the recall of its class."""
    values, places = logits.topk(min(3, logits.shape[1]), dim=1)
    other = places[:, :, None] != classes  # [n, 3, s]
    best = values[:, :, None].where(other, -torch.inf).amax(1)  # of the classes that keep their name
    kept = (logits[:, classes] > best) == (swapped > best)
    wrong = other & (places != targets[:, None])[:, :, None]
    rival = values[:, :, None].where(wrong, -torch.inf).amax(1)
    own = logits.gather(1, targets[:, None].long())
    mine = targets[:, None] == classes
    right = torch.where(mine, swapped > best, own > torch.maximum(rival, swapped))
    recall = (right & mine).sum(0).double() / mine.sum(0)
    return kept.double().mean(0), right.double().mean(0), recall

"""The contrastive loss of a batch of pairs, and which pairs may not be each other's negatives.

InfoNCE (van den Oord et al., 2018, arXiv 1807.03748) in both directions, as in CLIP (Radford et al., 2021):

    L = (CE(Z) + CE(Z')) / 2      CE(Z) = -mean_i log softmax(Z_i)_i      Z = scale * images @ texts'   [n, n]

A row whose caption or image equals that of another row is no negative of it: that logit is masked to -inf.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch.nn.functional import cross_entropy

from rag_clip.training.batches import Batch


def info_nce(logits: torch.Tensor, same: torch.Tensor | None = None) -> torch.Tensor:
    """Return the contrastive loss of logits [n, n], pairs on the diagonal; `same` bool [n, n] masks negatives."""
    masked = mask(logits, same)
    rows = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(masked, rows) + cross_entropy(masked.T, rows)) / 2


def mask(logits: torch.Tensor, same: torch.Tensor | None) -> torch.Tensor:
    """Return logits [n, n] with -inf where `same` is true outside the diagonal."""
    if same is None:
        return logits
    return logits.masked_fill(
        same.to(logits.device) & ~torch.eye(len(logits), dtype=torch.bool, device=logits.device), -torch.inf
    )


@lru_cache(maxsize=1)  # the run counts them, and the loss masks them
def same_pairs(batch: Batch) -> torch.Tensor | None:
    """Return bool [n, n], true where two rows have the same caption, ignoring case, or image; None if no two have."""
    texts = _numbers([" ".join(text.lower().split()) for text in batch.texts])
    same = batch.contents[:, None] == batch.contents
    if len(texts):
        same = same | (texts[:, None] == texts)
    return same if int(same.sum()) > len(batch) else None


def _numbers(texts: Sequence[str]) -> torch.Tensor:
    seen: dict[str, int] = {}
    return torch.tensor([seen.setdefault(text, len(seen)) for text in texts])

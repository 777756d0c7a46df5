"""ALIGN's contrastive loss with label smoothing (Jia et al., 2021, arXiv 2102.05918).

    L = CEe(Z) + CEe(Z')      Z = x t' / sigma, sigma learned      CEe: label smoothing e = 0.1 over all n columns

The sum, not the mean, of both directions: gradients are twice those of CLIP at the same rate. sigma is kept as the
model's logit scale, 1 / sigma, and clamped to [0.01, 1]. The paper trains with LAMB; here with AdamW.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import log_softmax

from rag_clip.training.batches import Batch
from rag_clip.training.contrast import mask, same_pairs
from rag_clip.training.objective import Needs, Setting
from rag_clip.training.towers import Towers


@dataclass(frozen=True, slots=True)
class Align:
    """Settings: `smoothing` e, and `mask_equal` as in CLIP. Raises ValueError for a smoothing outside [0, 1)."""

    smoothing: float = 0.1
    mask_equal: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"the smoothing is {self.smoothing}; give 0 to below 1")

    @property
    def needs(self) -> Needs:
        """Pairs."""
        return Needs()

    def build(self, towers: Towers, setting: Setting) -> nn.Module:
        """Return the loss."""
        return AlignLoss(towers, self)


class AlignLoss(nn.Module):
    """The loss of a batch of pairs."""

    def __init__(self, towers: Towers, settings: Align) -> None:
        super().__init__()
        self.towers, self.settings = towers, settings

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the mean loss of a batch."""
        images, texts = self.towers.embed_images(batch), self.towers.embed_texts(batch.texts)  # [n, d] each
        logits = mask(self.towers.scale * images @ texts.T, same_pairs(batch) if self.settings.mask_equal else None)
        return smoothed(logits, self.settings.smoothing) + smoothed(logits.T, self.settings.smoothing)


def smoothed(logits: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Return the cross-entropy of logits [n, n] with their diagonal, smoothed over the columns that are not masked."""
    likelihoods = log_softmax(logits, dim=1)
    own = likelihoods.diagonal()
    if not smoothing:
        return -own.mean()
    seen = ~likelihoods.isneginf()
    spread = likelihoods.masked_fill(~seen, 0).sum(1) / seen.sum(1)
    return -((1 - smoothing) * own + smoothing * spread).mean()

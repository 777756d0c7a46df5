"""CLIP's contrastive loss of image-caption pairs (Radford et al., 2021, arXiv 2103.00020).

    L = (CE(Z) + CE(Z')) / 2      Z = s x t'      x [n, d], t [n, d] unit vectors, s = exp(logit_scale), learned

Rows with equal captions or images are no negatives of each other, which the paper does not do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from rag_clip.training.batches import Batch
from rag_clip.training.contrast import info_nce, same_pairs
from rag_clip.training.objective import Needs, Setting
from rag_clip.training.towers import Towers


@dataclass(frozen=True, slots=True)
class Clip:
    """Settings: `mask_equal` keeps rows with equal captions or images from being negatives of each other."""

    mask_equal: bool = True

    @property
    def needs(self) -> Needs:
        """Pairs."""
        return Needs()

    def build(self, towers: Towers, setting: Setting) -> nn.Module:
        """Return the loss."""
        return ClipLoss(towers, self)


class ClipLoss(nn.Module):
    """The loss of a batch of pairs."""

    def __init__(self, towers: Towers, settings: Clip) -> None:
        super().__init__()
        self.towers, self.settings = towers, settings

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the mean loss of a batch."""
        images, texts = self.towers.embed_images(batch), self.towers.embed_texts(batch.texts)  # [n, d] each
        return info_nce(self.towers.scale * images @ texts.T, same_pairs(batch) if self.settings.mask_equal else None)

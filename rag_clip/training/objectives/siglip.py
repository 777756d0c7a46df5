"""SigLIP's pairwise sigmoid loss (Zhai et al., 2023, arXiv 2303.15343).

    L = 1/n sum_ij softplus(-y_ij (s x_i t_j + b))      y = +1 for the pairs on the diagonal, -1 elsewhere

From scratch s starts at 10 and b at -10. A model without a bias that was trained with a softmax starts with its own s
and b = -log(n) - median_{i != j} s x_i t_j, from the first batch (ours); with b = -10 its first steps would destroy it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import softplus

from rag_clip.training.batches import Batch
from rag_clip.training.contrast import same_pairs
from rag_clip.training.objective import Needs, Setting
from rag_clip.training.towers import Towers


@dataclass(frozen=True, slots=True)
class SigLip:
    """Settings: `bias` to start with, None for the model's own or as chosen from the first batch; `mask_equal`."""

    bias: float | None = None
    mask_equal: bool = True

    @property
    def needs(self) -> Needs:
        """Pairs, and a logit bias."""
        return Needs(bias=True)

    def build(self, towers: Towers, setting: Setting) -> nn.Module:
        """Return the loss."""
        return SigLipLoss(towers, self, trained=towers.encoder.trained_bias)


class SigLipLoss(nn.Module):
    """The loss of a batch of pairs."""

    started: torch.Tensor

    def __init__(self, towers: Towers, settings: SigLip, *, trained: bool) -> None:
        super().__init__()
        self.towers, self.settings = towers, settings
        self.register_buffer("started", torch.tensor(trained and settings.bias is None))

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the mean loss of a batch."""
        images, texts = self.towers.embed_images(batch), self.towers.embed_texts(batch.texts)  # [n, d] each
        products = self.towers.scale * images @ texts.T  # [n, n]
        if not self.started:
            self._start(products.detach())
        return sigmoid_loss(
            products + self.towers.model.logit_bias, same_pairs(batch) if self.settings.mask_equal else None
        )

    @torch.no_grad()
    def _start(self, products: torch.Tensor) -> None:
        others = products[~torch.eye(len(products), dtype=torch.bool, device=products.device)]
        median = float(others.median()) if len(others) else 0.0
        bias = -math.log(len(products)) - median if self.settings.bias is None else self.settings.bias
        self.towers.model.logit_bias.fill_(bias)
        self.started.fill_(True)


def sigmoid_loss(logits: torch.Tensor, same: torch.Tensor | None = None) -> torch.Tensor:
    """Return the loss of logits [n, n]; pairs off the diagonal that are the `same`, bool [n, n], are left out."""
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    losses = softplus(torch.where(own, -logits, logits))
    if same is not None:
        losses = losses.masked_fill(same.to(logits.device) & ~own, 0)
    return losses.sum() / len(logits)

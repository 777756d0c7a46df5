"""PACL: a matching of patches and texts, learned from captions alone (Mukhoti et al., CVPR 2023, arXiv 2212.04994).

    L = (CE(Phi / tau) + CE(Phi' / tau)) / 2      Phi_ij of image i and caption j, see models.patch_match

Both towers are meant to be locked: then patch tokens are kept, a step costs little, and vectors of the images and texts
stay as they are. Phi_ij is computed for every pair; ports of the paper pool each image by its own caption only, so that
their negatives are no Phi_ij. tau is 0.1 as in those ports; the paper's own settings were not found.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from rag_clip.models.patch_match import BETA, start_match
from rag_clip.models.towers import image_projection
from rag_clip.training.batches import Batch
from rag_clip.training.contrast import info_nce, same_pairs
from rag_clip.training.objective import Needs, Setting
from rag_clip.training.towers import Towers


@dataclass(frozen=True, slots=True)
class Pacl:
    """Settings: `beta` of the pooling, `temperature` tau, the width `hidden` of W2, None for that of the joint space.

    `mask_equal` is as in CLIP. Raises ValueError for values that are not above 0.
    """

    beta: float = BETA
    temperature: float = 0.1
    hidden: int | None = None
    mask_equal: bool = True

    def __post_init__(self) -> None:
        for name in ("beta", "temperature", "hidden"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; give a number above 0")

    @property
    def needs(self) -> Needs:
        """Pairs, and patch tokens; the logit scale is not trained, tau is fixed."""
        return Needs(patches=True, scale=False)

    def build(self, towers: Towers, setting: Setting) -> nn.Module:
        """Return the loss; raises ValueError for an image tower without patch tokens and a projection."""
        return PaclLoss(towers, self, seed=setting.batches.seed)


class PaclLoss(nn.Module):
    """The loss of a batch of pairs; exports its `match`."""

    kind = "patches"

    def __init__(self, towers: Towers, settings: Pacl, *, seed: int) -> None:
        super().__init__()
        self.towers, self.settings = towers, settings
        projection = image_projection(towers.model.visual)
        self.match = start_match(projection, hidden=settings.hidden, beta=settings.beta, seed=seed)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the mean loss of a batch."""
        patches, texts = self.towers.embed_patches(batch), self.towers.embed_texts(batch.texts)  # [n, p, D], [n, d]
        similarities = self.match(patches, texts)  # [n, n]
        same = same_pairs(batch) if self.settings.mask_equal else None
        return info_nce(similarities / self.settings.temperature, same)

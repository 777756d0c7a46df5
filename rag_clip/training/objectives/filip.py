"""FILIP: late interaction of patches and words (Yao et al., 2022, arXiv 2111.07783), and Wukong's fewer tokens.

    L = (CE(s I) + CE(s T)) / 2      I, T: the best token of the other side, mean over one side: models.token_match

s is the model's own scale. With `reduced` = q an image has q tokens (Wukong, Gu et al., 2022, arXiv 2202.06767, with a
locked image tower; 12 of 49 for ViT-B/32, 24 for ViT-L). The papers project to 256; here the joint space, from the
towers' own projections, unless `width` is given. Late interaction did not win classification in Wukong's own table: it
is for pairs that differ in a detail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from rag_clip.models.text_tower import causal_tower
from rag_clip.models.token_match import Reducer, TokenMatch, late_similarities, text_part
from rag_clip.models.towers import image_projection
from rag_clip.training.batches import Batch
from rag_clip.training.contrast import mask, same_pairs
from rag_clip.training.objective import Needs, Setting
from rag_clip.training.towers import Towers


@dataclass(frozen=True, slots=True)
class Filip:
    """Settings: `reduced` tokens per image, None for all patches; `groups` of the reducer; `width` of the tokens.

    `mask_equal` is as in CLIP. Raises ValueError for numbers below 1.
    """

    reduced: int | None = None
    groups: int = 8
    width: int | None = None
    mask_equal: bool = True

    def __post_init__(self) -> None:
        for name in ("reduced", "groups", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; give at least 1")

    @property
    def needs(self) -> Needs:
        """Pairs, and patch tokens."""
        return Needs(patches=True)

    def build(self, towers: Towers, setting: Setting) -> nn.Module:
        """Return the loss; raises ValueError for towers without tokens."""
        return FilipLoss(towers, self, seed=setting.batches.seed)


class FilipLoss(nn.Module):
    """The loss of a batch of pairs; exports its `match`."""

    kind = "late"

    def __init__(self, towers: Towers, settings: Filip, *, seed: int) -> None:
        super().__init__()
        self.towers, self.settings = towers, settings
        image, text = image_projection(towers.model.visual), text_projection(towers.model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if settings.width is not None:
                image, text = (nn.init.orthogonal_(torch.empty(len(each), settings.width)) for each in (image, text))
            reducer = None if settings.reduced is None else Reducer(len(image), settings.reduced, settings.groups)
        self.match = TokenMatch(image.detach().float().clone(), text.detach().float().clone(), reducer)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the mean loss of a batch."""
        patches = self.match.patches(self.towers.embed_patches(batch))  # [n, p, e]
        tokens, real = self.towers.embed_text_tokens(batch.texts)  # [n, l, D]
        of_images, of_texts = late_similarities(patches, self.match.words(tokens), text_part(real))
        same = same_pairs(batch) if self.settings.mask_equal else None
        return late_loss(self.towers.scale * of_images, self.towers.scale * of_texts, same)


def late_loss(of_images: torch.Tensor, of_texts: torch.Tensor, same: torch.Tensor | None = None) -> torch.Tensor:
    """Return the loss of logits s I [n, n] and s T [n, n]; `same` bool [n, n] masks negatives."""
    rows = torch.arange(len(of_images), device=of_images.device)
    return (cross_entropy(mask(of_images, same), rows) + cross_entropy(mask(of_texts, same), rows)) / 2


def text_projection(model: Any) -> torch.Tensor:
    """Return the matrix [D, d] from a text tower's tokens to the joint space; raises ValueError if it has none."""
    tower = causal_tower(model)
    if tower is None:
        raise ValueError("the text tower is not causal; late interaction needs a model such as ViT-B-32")
    projection = tower.text.text_projection
    if isinstance(projection, nn.Linear):
        return projection.weight.T
    if not isinstance(projection, torch.Tensor):
        raise ValueError("the text tower has no projection matrix; late interaction needs a model such as ViT-B-32")
    return projection

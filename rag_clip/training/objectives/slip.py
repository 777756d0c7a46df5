"""SLIP: CLIP's loss, and SimCLR's between two further views of each image (Mu et al., 2022, arXiv 2112.12750).

    L = InfoNCE(view 0, texts) + w SimCLR(view 1, view 2)      w = 1
    SimCLR = (CE([q r' | q q' - inf I] / T) + CE([r q' | r r' - inf I] / T)) / 2      q, r = n(MLP(h))

The class of row i is i. h [n, D] are image features before the projection to the joint space; the MLP (Linear, batch
norm, ReLU, twice; Linear) is dropped after training. Images that are equal are no negatives of each other.

Views are crops alone. The paper also mirrors them, jitters colours, and turns some grey or blurred; captions name
colours and sides, which such views would teach the image tower to forget, and crops of 0.08 of an image leave out what
they name. So crops have at least half the area, mirroring is off, and changes of colour are not offered (ours).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from rag_clip.training.batches import Batch
from rag_clip.training.contrast import info_nce, mask, same_pairs
from rag_clip.training.objective import Needs, Setting
from rag_clip.training.towers import Towers


@dataclass(frozen=True, slots=True)
class Slip:
    """Settings, with the paper's defaults except for the views.

    weight: w of the loss between views; 0 is CLIP.
    temperature: T.
    hidden, width: of the MLP's layers.
    least_area, flip: least share of the area in further views (0.08 in the paper), and whether they are mirrored.
    mask_equal: as in CLIP.

    Raises ValueError for a weight below 0, and a temperature or area that is not above 0.
    """

    weight: float = 1.0
    temperature: float = 0.1
    hidden: int = 4096
    width: int = 256
    least_area: float = 0.5
    flip: bool = False
    mask_equal: bool = True

    def __post_init__(self) -> None:
        if not self.weight >= 0 or not self.temperature > 0 or not 0 < self.least_area <= 1:
            raise ValueError(
                f"the weight is {self.weight}, the temperature {self.temperature} and the least area "
                f"{self.least_area}; give a weight of at least 0, a temperature above 0, and an area up to 1"
            )

    @property
    def needs(self) -> Needs:
        """Pairs, and two further views of each image."""
        return Needs(views=2 if self.weight else 0, least_area=self.least_area, flip=self.flip)

    def build(self, towers: Towers, setting: Setting) -> nn.Module:
        """Return the loss."""
        return SlipLoss(towers, self)


class SlipLoss(nn.Module):
    """The loss of a batch of pairs with two further views."""

    def __init__(self, towers: Towers, settings: Slip) -> None:
        super().__init__()
        self.towers, self.settings = towers, settings
        self.head = _mlp(towers.backbone_width, settings.hidden, settings.width) if settings.weight else nn.Identity()

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the mean loss of a batch."""
        images, texts = self.towers.embed_images(batch), self.towers.embed_texts(batch.texts)  # [n, d] each
        loss = info_nce(self.towers.scale * images @ texts.T, same_pairs(batch) if self.settings.mask_equal else None)
        if not self.settings.weight:
            return loss
        first, second = (
            normalize(self.head(self.towers.backbone(batch.views[view])[0]), dim=-1) for view in (1, 2)
        )  # [n, width] each
        same = batch.contents[:, None] == batch.contents
        return loss + self.settings.weight * simclr(first, second, temperature=self.settings.temperature, same=same)


def simclr(
    first: torch.Tensor, second: torch.Tensor, *, temperature: float, same: torch.Tensor | None = None
) -> torch.Tensor:
    """Return SimCLR's loss of unit rows [n, e] of two views (Chen et al., 2020, arXiv 2002.05709).

    Pairs of rows that are the `same`, bool [n, n], are no negatives of each other.
    """
    rows = torch.arange(len(first), device=first.device)
    own = torch.eye(len(first), dtype=torch.bool, device=first.device)
    hidden = own if same is None else own | same.to(own.device)
    across = mask(first @ second.T / temperature, same)  # [n, n]
    losses = [
        cross_entropy(torch.cat([between, (one @ one.T / temperature).masked_fill(hidden, -torch.inf)], 1), rows)
        for between, one in ((across, first), (across.T, second))
    ]
    return (losses[0] + losses[1]) / 2


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (inputs, hidden):
        layers += [nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, outputs))

"""Where in an image texts are true: the cosines of its patches with each text, on their grid."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from rag_clip.data import Features
from rag_clip.models.learned_match import patch_match
from rag_clip.models.patch_match import start_match
from rag_clip.models.pixels import PixelTransform
from rag_clip.models.towers import TwoTowers, image_projection
from rag_clip.protocols import Encoder


class PatchMaps:
    """An encoder whose features of an image are the cosines of its patches with texts, [n, t * rows * columns].

    The matching of patches that the encoder learned is used if it has one (`learned`), and its raw patch tokens
    otherwise. Images are resized to the input whole, whatever their aspect ratio. `grid` has rows and columns.
    """

    def __init__(self, towers: TwoTowers, texts: torch.Tensor) -> None:
        """Take unit texts [t, d]; raises ValueError for an encoder without patch tokens, and as `patch_match`."""
        match = patch_match(towers)
        self._towers, self.texts, self.learned = towers, texts, match is not None
        self._match = (match or start_match(image_projection(towers.model.visual))).to(towers.device)
        grid = towers.model.visual.grid_size
        self.grid = (int(grid[0]), int(grid[1]))
        self.dim = len(texts) * self.grid[0] * self.grid[1]
        before = towers.preprocess
        self.preprocess = replace(before, resize_mode="squash") if isinstance(before, PixelTransform) else before
        values = [texts, *self._match.state_dict().values()]
        self.key = hashlib.sha256(b"".join(each.cpu().numpy().tobytes() for each in values)).hexdigest()

    def __getattr__(self, name: str) -> Any:
        """Return what the encoder has."""
        return getattr(self._towers, name)

    @torch.no_grad()
    def encode_pixels(self, pixels: torch.Tensor, *, patches: bool = False) -> Features:
        """Return the maps of uint8 pixels [n, 3, height, width] as `pooled`."""
        cosines = self._match.maps(self._towers.patch_tokens(pixels), self.texts)  # [n, p, t]
        return Features(cosines.transpose(1, 2).flatten(1))

    def of(self, image: Image.Image) -> torch.Tensor:
        """Return the maps of an image, float32 [t, rows, columns], on the CPU."""
        pixels = torch.from_numpy(self.preprocess(image)).permute(2, 0, 1)[None]
        return self.encode_pixels(pixels).pooled[0].float().cpu().view(-1, *self.grid)


@dataclass(frozen=True, slots=True, eq=False)
class HeatMap:
    """The cosines of the patches of an image with class `label`, [rows, columns]; `learned` as of `PatchMaps`."""

    label: str
    values: torch.Tensor
    learned: bool


def heat_map(image: Image.Image, label: str, weights: torch.Tensor, encoder: Encoder) -> HeatMap | None:
    """Return where an image is a class of unit `weights` [d]; None for an encoder without patch tokens."""
    visual = getattr(encoder.model, "visual", None) if isinstance(encoder, TwoTowers) else None
    if not isinstance(encoder, TwoTowers) or not isinstance(getattr(visual, "proj", None), torch.Tensor):
        return None
    if not hasattr(visual, "ln_post") or getattr(visual, "attn_pool", None) is not None:
        return None
    maps = PatchMaps(encoder, weights[None].float())
    return HeatMap(label, maps.of(image)[0], maps.learned)

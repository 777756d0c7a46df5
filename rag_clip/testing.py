"""A small deterministic encoder and the contract checks that every method of a slot must pass."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from rag_clip.data import Features, Fingerprint


def square_preprocess(image: Image.Image) -> np.ndarray:
    """Resize to 8 x 8 RGB."""
    return np.asarray(image.convert("RGB").resize((8, 8), Image.Resampling.BICUBIC))


@dataclass(frozen=True, slots=True)
class ToyEncoder:
    """An encoder without a model: texts are hashed bags of words, images their mean colours, in one space.

    A text that names a colour ("red") lies near images of that colour, so retrieval and matching are meaningful.
    """

    dim: int = 32
    scale: float = 20.0
    bias: float = 0.0
    name: str = "toy"

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    @property
    def fingerprint(self) -> Fingerprint:
        """Named after width, so that two widths disagree."""
        return Fingerprint(model=self.name, pretrained="", weights=f"toy-{self.dim}", preprocessing="8x8")

    @property
    def preprocess(self):  # type: ignore[no-untyped-def]
        """8 x 8 bicubic."""
        return square_preprocess

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Sum a fixed vector per word; float32 unit rows [t, d]."""
        rows = [
            sum((self._word(word) for word in text.lower().split()), torch.full((self.dim,), 1e-3)) for text in texts
        ]
        stacked = torch.stack(rows) if rows else torch.zeros(0, self.dim)
        return torch.nn.functional.normalize(stacked, dim=-1)

    def encode_pixels(self, pixels: torch.Tensor, *, patches: bool = False) -> Features:
        """Mix the vectors of red, green and blue by the mean colour; patches are the four quadrants."""
        words = torch.stack([self._word(word) for word in ("red", "green", "blue")])
        values = pixels.float() / 255 + 1e-3
        pooled = torch.nn.functional.normalize(values.mean((2, 3)) @ words, dim=-1)
        quadrants = torch.nn.functional.adaptive_avg_pool2d(values, 2).flatten(2).transpose(1, 2) @ words
        return Features(pooled, torch.nn.functional.normalize(quadrants, dim=-1) if patches else None)

    def encode_images(self, images: Sequence[Image.Image | bytes], *, patches: bool = False) -> Features:
        """Decode where needed, preprocess and embed images."""
        from rag_clip.decode import decode_image

        decoded = [decode_image(image) if isinstance(image, bytes) else image for image in images]
        pixels = np.stack([square_preprocess(image) for image in decoded])
        return self.encode_pixels(torch.from_numpy(pixels).permute(0, 3, 1, 2), patches=patches)

    def _word(self, word: str) -> torch.Tensor:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:6], "little")
        return torch.randn(self.dim, generator=torch.Generator().manual_seed(seed))

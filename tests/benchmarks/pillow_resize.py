"""The image transform of before for square inputs: Pillow resizes, in a module of its own for worker processes."""

from __future__ import annotations

import numpy as np
from PIL import Image

from rag_clip.models.pixels import PixelTransform


class Pillow:
    """The square transform of before: Pillow resizes, and JPEGs keep at least 1024 pixels; runs in processes."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return uint8 [side, side, 3]."""
        size = PixelTransform(self.side, self.side)._resized(*image.size)
        left, top = (round((have - self.side) / 2) for have in size)
        resized = image.resize(size, Image.Resampling.BICUBIC)
        return np.array(resized.crop((left, top, left + self.side, top + self.side)))

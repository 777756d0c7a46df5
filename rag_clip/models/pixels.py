"""The image transform up to uint8 pixels: resize and crop as in open_clip and timm, with PIL only.

Division by 255, mean and standard deviation are applied later, on the device, in `Encoder.encode_pixels`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

MAX_ASPECT = 32


@dataclass(frozen=True, slots=True)
class PixelTransform:
    """Resizes and crops an RGB image to uint8 [height, width, 3]; hashable and picklable.

    `shortest` fits the shorter side and crops the centre, `longest` fits the longer side and pads with `fill`,
    `squash` ignores the aspect ratio. With `shortest`, images of an aspect ratio above `MAX_ASPECT` are first cropped
    to it, so that the size of the resized image is bounded.
    """

    height: int
    width: int
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fill: int = 0

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return uint8 [height, width, 3]."""
        return np.array(_crop_or_pad(self.resize(image), (self.width, self.height), self.fill))

    def resize(self, image: Image.Image) -> Image.Image:
        """Return the resized RGB image, before cropping or padding."""
        if self.resize_mode == "shortest":
            image = _crop_to_aspect(image.convert("RGB"))
        return _resize(image.convert("RGB"), self._resized(image.width, image.height), self.interpolation)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if self.resize_mode == "squash":
            return self.width, self.height
        if self.resize_mode == "shortest" and self.width == self.height:
            # torchvision, used here, rounds the longer side down; open_clip's own resizing (below) rounds to nearest.
            return max(self.width, self.width * width // height), max(self.height, self.height * height // width)
        ratios = (height / self.height, width / self.width)
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return max(1, round(width / ratio)), max(1, round(height / ratio))


@dataclass(frozen=True, slots=True)
class CentreCrop:
    """Resizes with `resized`, then crops or pads the centre to uint8 [height, width, 3], as in timm."""

    resized: PixelTransform
    height: int
    width: int

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return uint8 [height, width, 3]."""
        return np.array(_crop_or_pad(self.resized.resize(image), (self.width, self.height), self.resized.fill))


def _resize(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    resampling = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.BICUBIC
    return image if image.size == size else image.resize(size, resampling)


def _crop_to_aspect(image: Image.Image) -> Image.Image:
    limit = MAX_ASPECT * min(image.size)
    return _crop_or_pad(image, (min(image.width, limit), min(image.height, limit)), fill=0)


def _crop_or_pad(image: Image.Image, size: tuple[int, int], fill: int) -> Image.Image:
    missing = [max(0, wanted - have) for wanted, have in zip(size, image.size, strict=True)]
    if any(missing):
        borders = (missing[0] // 2, missing[1] // 2, (missing[0] + 1) // 2, (missing[1] + 1) // 2)
        image = ImageOps.expand(image, borders, (fill, fill, fill))
    if image.size == size:
        return image
    left, top = (round((have - wanted) / 2) for wanted, have in zip(size, image.size, strict=True))
    return image.crop((left, top, left + size[0], top + size[1]))

"""The image transform up to uint8 pixels: resize and crop as in open_clip and timm, which resize with Pillow.

torch resizes where it is faster (`PixelTransform.resampler`); its pixels are within 2 grey levels of Pillow's.
Division by 255, mean and standard deviation are applied later, on the device, in `Encoder.encode_pixels`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from PIL import Image

from rag_clip.models.decode import REDUCED_SIDE

MAX_ASPECT = 32
REDUCED_TIMES, REDUCED_LEAST = 3, 672


@dataclass(frozen=True, slots=True)
class PixelTransform:
    """Resizes and crops an RGB image to uint8 [height, width, 3]; hashable and picklable.

    `shortest` fits the shorter side and crops the centre, `longest` fits the longer side and pads with `fill`,
    `squash` ignores the aspect ratio. With `shortest`, images of an aspect ratio above `MAX_ASPECT` are first cropped
    to it, so that the size of the resized image is bounded. `threads` says that it may run in several threads at once
    and mostly releases the interpreter's lock, so that `DecodePool` needs no processes.
    """

    height: int
    width: int
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fill: int = 0
    threads: ClassVar[bool] = True

    @property
    def resampler(self) -> Literal["torch", "pillow"]:
        """What resizes: torch where it keeps the aspect ratio, on x86-64 with AVX2; Pillow otherwise.

        Without vector instructions torch takes twice as long as Pillow. With `squash` Pillow may resize the columns
        first, which changes sharp pixels by up to 13 grey levels.
        """
        import torch  # here, so that a decoding process with a preprocess of another kind loads no torch

        vectors = torch.backends.cpu.get_cpu_capability().startswith("AVX")
        return "torch" if vectors and self.resize_mode != "squash" else "pillow"

    @property
    def least_side(self) -> int:
        """The shorter side that a JPEG keeps at least if it is reduced while it is decoded, 672 to 1024 pixels."""
        return min(REDUCED_SIDE, max(REDUCED_LEAST, REDUCED_TIMES * max(self.height, self.width)))

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return uint8 [height, width, 3]."""
        return np.ascontiguousarray(_crop_or_pad(self.resize(image), (self.width, self.height), self.fill))

    def resize(self, image: Image.Image) -> np.ndarray:
        """Return the resized RGB image before cropping or padding, uint8 [height, width, 3]."""
        pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
        if self.resize_mode == "shortest":
            pixels = _crop_to_aspect(pixels)
        height, width = pixels.shape[:2]
        resize = _resize_by_torch if self.resampler == "torch" else _resize_by_pillow
        size = self._resized(width, height)
        return pixels if size == (width, height) else resize(pixels, size, self.interpolation)

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
    threads: ClassVar[bool] = True

    @property
    def resampler(self) -> Literal["torch", "pillow"]:
        """As of PixelTransform."""
        return self.resized.resampler

    @property
    def least_side(self) -> int:
        """As of PixelTransform."""
        return self.resized.least_side

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return uint8 [height, width, 3]."""
        resized = self.resized.resize(image)
        return np.ascontiguousarray(_crop_or_pad(resized, (self.width, self.height), self.resized.fill))


def _resize_by_pillow(pixels: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    resampling = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.BICUBIC
    return np.array(Image.fromarray(pixels).resize(size, resampling))


def _resize_by_torch(pixels: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    import torch

    rows = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # [1, 3, h, w], channels last in memory
    resized = torch.nn.functional.interpolate(rows, size=size[::-1], mode=interpolation, antialias=True)
    found: np.ndarray = resized[0].permute(1, 2, 0).numpy()
    return found


def _crop_to_aspect(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    limit = MAX_ASPECT * min(height, width)
    return _crop_or_pad(pixels, (min(width, limit), min(height, limit)), fill=0)


def _crop_or_pad(pixels: np.ndarray, size: tuple[int, int], fill: int) -> np.ndarray:
    spans = []
    for wanted, have in zip(size[::-1], pixels.shape[:2], strict=True):  # height, then width
        missing = max(0, wanted - have)
        spans.append((missing // 2, (missing + 1) // 2))
    if any(map(any, spans)):
        pixels = np.pad(pixels, (*spans, (0, 0)), constant_values=fill)
    top, left = (round((have - wanted) / 2) for wanted, have in zip(size[::-1], pixels.shape[:2], strict=True))
    return pixels[top : top + size[1], left : left + size[0]]

"""Views of an image, such as random crops and copies, and facts about it; for decode workers, so without torch."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from rag_clip.images.perceptual import perceptual_hash
from rag_clip.models.decode import image_size, runs_in_threads

if TYPE_CHECKING:  # rag_clip.protocols imports torch, which a decode worker does not load
    from rag_clip.protocols import Preprocess

LEAST_AREA = 0.5
ASPECTS = (3 / 4, 4 / 3)
CROP_TRIALS = 10


class ImageFacts(NamedTuple):
    """SHA-256 of the bytes, perceptual hash as 16 hexadecimal digits, and size in pixels after rotation by EXIF."""

    sha256: str
    phash: str
    width: int
    height: int


def examine(data: bytes, image: Image.Image) -> ImageFacts:
    """Return the facts of an image, given as the bytes of its file and decoded."""
    width, height = image_size(data)
    return ImageFacts(hashlib.sha256(data).hexdigest(), f"{perceptual_hash(image):016x}", width, height)


@dataclass(frozen=True, slots=True)
class CropViews:
    """`count` random crops of an image, each mirrored with probability 1/2; with a count of 0 the whole image.

    A crop has 50 to 100 % of the area and an aspect ratio from 3:4 to 4:3. The random numbers depend only on the
    image's pixels and `seed`, not on the order of images.
    """

    preprocess: Preprocess
    count: int
    seed: int = 0

    @property
    def threads(self) -> bool:
        """As of `preprocess`."""
        return runs_in_threads(self.preprocess)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return uint8 [count, height, width, 3], or [1, height, width, 3] for the whole image."""
        if not self.count:
            return self.preprocess(image)[None]
        content = hashlib.sha256(image.tobytes()).digest()[:8]
        draw = np.random.default_rng([self.seed, int.from_bytes(content, "little")])
        return np.stack([self.preprocess(_crop(image, draw)) for _ in range(self.count)])


@dataclass(frozen=True, slots=True)
class CopyViews:
    """An image and five copies that a person would call the same.

    Half and twice the size, JPEG at quality 30, 80 % of the brightness, and without a border of 1/40 of each side.
    """

    preprocess: Preprocess

    @property
    def threads(self) -> bool:
        """As of `preprocess`."""
        return runs_in_threads(self.preprocess)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return uint8 [6, height, width, 3], the image itself first."""
        return np.stack([self.preprocess(view) for view in (image, *copies_of(image))])


class CopyFacts(NamedTuple):
    """SHA-256 of an image's bytes, and the perceptual hashes of the image and its copies, in the order of CopyViews."""

    sha256: str
    phash: tuple[int, ...]


def examine_copies(data: bytes, image: Image.Image) -> CopyFacts:
    """Return the facts of an image and its copies, given as the bytes of its file and decoded."""
    hashes = tuple(perceptual_hash(view) for view in (image, *copies_of(image)))
    return CopyFacts(hashlib.sha256(data).hexdigest(), hashes)


def copies_of(image: Image.Image) -> list[Image.Image]:
    """Return the five copies of an RGB image that CopyViews describes."""
    width, height = image.size
    across, down = max(1, round(width / 40)), max(1, round(height / 40))
    inner = (across, down, max(across + 1, width - across), max(down + 1, height - down))
    return [
        image.resize((max(1, width // 2), max(1, height // 2)), Image.Resampling.BICUBIC),
        image.resize((2 * width, 2 * height), Image.Resampling.BICUBIC),
        _recompressed(image),
        image.point(lambda value: value * 0.8),
        image.crop(inner),
    ]


def _recompressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30)
    return Image.open(buffer).convert("RGB")


def _crop(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    left, top, width, height = _box(image.size, draw)
    cropped = image.crop((left, top, left + width, top + height))
    return cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draw.random() < 0.5 else cropped


def _box(size: tuple[int, int], draw: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw left, top, width and height of a crop; if no draw fits, return the largest square in the middle."""
    for _ in range(CROP_TRIALS):
        area = size[0] * size[1] * draw.uniform(LEAST_AREA, 1)
        aspect = np.exp(draw.uniform(*np.log(ASPECTS)))
        width, height = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < width <= size[0] and 0 < height <= size[1]:
            left, top = draw.integers(size[0] - width + 1), draw.integers(size[1] - height + 1)
            return int(left), int(top), width, height
    side = min(size)
    return (size[0] - side) // 2, (size[1] - side) // 2, side, side

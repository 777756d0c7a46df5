"""What decode workers find out about an image besides its pixels; imports no torch, as they do not."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from PIL import Image

from rag_clip.images.perceptual import perceptual_hash
from rag_clip.models.decode import image_size


class ImageFacts(NamedTuple):
    """SHA-256 of the bytes, the perceptual hash as 16 hexadecimal digits, and the upright size before any reduction."""

    sha256: str
    phash: str
    width: int
    height: int


def examine(data: bytes, image: Image.Image) -> ImageFacts:
    """Describe an image given as bytes and as what they decode to."""
    width, height = image_size(data)
    return ImageFacts(hashlib.sha256(data).hexdigest(), f"{perceptual_hash(image):016x}", width, height)

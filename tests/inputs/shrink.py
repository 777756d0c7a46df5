"""Preprocesses that are not made for threads, which worker processes load without torch."""

from __future__ import annotations

import numpy as np
from PIL import Image


def shrink(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((4, 4)))


def squared(image: Image.Image) -> np.ndarray:
    """Do as the preprocess of ToyEncoder."""
    return np.asarray(image.convert("RGB").resize((8, 8), Image.Resampling.BICUBIC))

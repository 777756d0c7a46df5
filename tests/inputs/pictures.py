"""Small image files and prompts that the tests of classify share."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.models.pixels import PixelTransform
from rag_clip.testing import ToyEncoder

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@dataclass(frozen=True, slots=True)
class LightEncoder(ToyEncoder):
    """ToyEncoder with a preprocess that runs in threads."""

    @property
    def preprocess(self) -> PixelTransform:
        return PixelTransform(8, 8)


def picture(colour: str, *, kind: str = "PNG", size: tuple[int, int] = (9, 7)) -> bytes:
    return encoded(Image.new("RGB", size, COLOURS[colour]), kind)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def colour_prompts(*names: str, encoder: ToyEncoder | None = None) -> Prompts:
    names = names or tuple(COLOURS)
    encoder = encoder or ToyEncoder()
    texts = tuple((PromptText(text=name, weight=1.0),) for name in names)
    provenance = {"encoder": asdict(encoder.fingerprint), "method": "templates", "settings": {}, "index": ""}
    return Prompts(LabelSet(names), texts, provenance)


def colours(count: int) -> list[str]:
    return [list(COLOURS)[row % 3] for row in range(count)]


def write_images(
    path: Path, images: Sequence[object], kind: pa.DataType | None = None, **columns: Sequence[object]
) -> Path:
    table = pa.table({"image": pa.array(images, kind or pa.binary()), **columns})
    pq.write_table(table, path)
    return path


def noisy_pictures(count: int, seed: int = 0) -> tuple[list[bytes], list[str]]:
    """Draw noisy squares of red, green and blue in turn, which a few images alone do not tell; with their colours."""
    draw = np.random.default_rng(seed)
    names = [("red", "green", "blue")[row % 3] for row in range(count)]
    pixels = [np.clip(np.array(COLOURS[name]) * 0.5 + draw.normal(90, 70, (4, 4, 3)), 0, 255) for name in names]
    return [encoded(Image.fromarray(each.astype(np.uint8))) for each in pixels], names


def meaningless_prompts(*names: str) -> Prompts:
    """Return prompts of these classes with texts that the encoder reads as one and the same."""
    texts = tuple((PromptText("something", 1.0),) for _ in names)
    return Prompts(LabelSet(names), texts, {"method": "meaningless"})

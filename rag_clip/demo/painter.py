"""The demo painter: a small diffusion model, conditioned only on text embeddings of the demo encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from rag_clip.demo.diffusion import sample
from rag_clip.demo.unet import SIDE, WEIGHTS, Denoiser, load_denoiser
from rag_clip.protocols import Encoder

GUIDANCE, STEPS = 2.0, 25
FOLDER = Path(str(files("rag_clip.demo"))) / "assets" / "painter"


@dataclass(frozen=True, slots=True, eq=False)
class DemoPainter:
    """A Painter of `SIDE` x `SIDE` images; made by `demo_painter`."""

    name: str
    settings: Mapping[str, Any]
    denoiser: Denoiser
    encoder: Encoder

    @property
    def size(self) -> tuple[int, int]:
        """SIDE x SIDE pixels."""
        return SIDE, SIDE

    def paint(self, texts: Sequence[str], *, seeds: Sequence[int]) -> list[Image.Image]:
        """Return one image per text, computed on the CPU from the noise of its own seed."""
        if not texts:
            return []
        embedded = self.encoder.encode_text(texts).cpu()
        painted = sample(
            self.denoiser,
            embedded,
            seeds=list(seeds),
            steps=self.settings["steps"],
            guidance=self.settings["guidance"],
        )
        pixels = ((painted + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(image) for image in pixels]


def demo_painter(
    encoder: Encoder, *, guidance: float | None = None, steps: int | None = None, folder: Path = FOLDER
) -> DemoPainter:
    """Load a painter from `folder`; `encoder` is the one it was trained with, the demo encoder for the bundled painter.

    `guidance` and `steps` default to GUIDANCE and STEPS.
    """
    unet = folder / "unet"
    settings = {
        "weights": hashlib.sha256((unet / WEIGHTS).read_bytes()).hexdigest(),
        "text_encoder": encoder.fingerprint.weights,
        "guidance": GUIDANCE if guidance is None else guidance,
        "steps": STEPS if steps is None else steps,
    }
    return DemoPainter("demo", settings, load_denoiser(unet), encoder)

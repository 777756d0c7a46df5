"""Painters by their specification: the bundled one, or a text-to-image pipeline of diffusers."""

from __future__ import annotations

import torch

from rag_clip.demo.painter import demo_painter
from rag_clip.demo.unet import SIDE
from rag_clip.protocols import Painter
from rag_clip.support.diffusers_painter import PainterError, load_diffusers_painter

__all__ = ["PainterError", "load_painter"]


def load_painter(
    spec: str,
    *,
    guidance: float | None = None,
    steps: int | None = None,
    size: tuple[int, int] | None = None,
    device: str | torch.device | None = None,
    precision: str | None = None,
) -> Painter:
    """Load a painter: `demo`, which paints the micro world at a fixed size, or a hub id or folder of diffusers.

    Guidance and steps default to 2 and 25 for `demo`; for other painters, and for the remaining parameters, see
    `load_diffusers_painter`. Raises PainterError where the painter cannot be loaded.
    """
    if spec != "demo":
        return load_diffusers_painter(
            spec, guidance=guidance, steps=steps, size=size, device=device, precision=precision
        )
    if size not in (None, (SIDE, SIDE)):
        raise PainterError(f"the demo painter paints {SIDE} x {SIDE} pixels; leave size out")
    from rag_clip.models.open_clip import load_encoder

    return demo_painter(load_encoder("demo", device="cpu", precision="fp32"), guidance=guidance, steps=steps)

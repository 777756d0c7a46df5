"""A pen with unit coordinates, and the emblems it can draw."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from rag_clip.demo.designs import COLOURS

TEXTURE = 72
_SCALE = 3 * TEXTURE  # supersampled three times
Point = tuple[float, float]


class Pen:
    """Draws in unit coordinates, x to the right and y down, on a supersampled transparent square."""

    def __init__(self) -> None:
        self.image = Image.new("RGBA", (_SCALE, _SCALE), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.image)

    def polygon(self, points: Sequence[Point], colour: str) -> None:
        """Fill a polygon."""
        self._draw.polygon([(x * _SCALE, y * _SCALE) for x, y in points], fill=(*COLOURS[colour], 255))

    def box(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        """Fill an axis-aligned rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def disc(self, x: float, y: float, radius: float, colour: str) -> None:
        """Fill a circle."""
        corners = [(x - radius) * _SCALE, (y - radius) * _SCALE, (x + radius) * _SCALE, (y + radius) * _SCALE]
        self._draw.ellipse(corners, fill=(*COLOURS[colour], 255))

    def texture(self) -> np.ndarray:
        """Return the drawing as uint8 [TEXTURE, TEXTURE, 4] with straight alpha."""
        return np.asarray(self.image.resize((TEXTURE, TEXTURE), Image.Resampling.BOX))

    def clip(self, inside: Pen) -> None:
        """Remove everything outside the opaque part of another drawing."""
        self.image.putalpha(Image.fromarray(np.minimum(*(np.asarray(p.image)[..., 3] for p in (self, inside)))))


def regular(x: float, y: float, radius: float, corners: int, turn: float = -math.pi / 2) -> list[Point]:
    """Return the corners of a regular polygon, the first at angle `turn`."""
    angles = [turn + 2 * math.pi * k / corners for k in range(corners)]
    return [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]


def draw_emblem(pen: Pen, emblem: str, x: float, y: float, radius: float, ink: str, ground: str) -> None:
    """Draw an emblem.

    pen: draws it.
    emblem: its name.
    x, y, radius: centre and size.
    ink: its colour.
    ground: the colour of its holes.
    """
    if emblem == "star":
        outer, inner = regular(x, y, radius, 5), regular(x, y, 0.42 * radius, 5, -math.pi / 2 + math.pi / 5)
        pen.polygon([point for pair in zip(outer, inner, strict=True) for point in pair], ink)
    elif emblem in ("crescent", "ring"):
        pen.disc(x, y, radius, ink)
        shift = 0.45 * radius if emblem == "crescent" else 0.0
        pen.disc(x + shift, y, 0.55 * radius if emblem == "ring" else 0.8 * radius, ground)
    elif emblem == "heart":
        pen.disc(x - 0.42 * radius, y - 0.3 * radius, 0.5 * radius, ink)
        pen.disc(x + 0.42 * radius, y - 0.3 * radius, 0.5 * radius, ink)
        shoulder = y - 0.1 * radius
        pen.polygon([(x - 0.88 * radius, shoulder), (x, y + radius), (x + 0.88 * radius, shoulder)], ink)
    elif emblem == "plus":
        pen.box(x - 0.3 * radius, y - radius, x + 0.3 * radius, y + radius, ink)
        pen.box(x - radius, y - 0.3 * radius, x + radius, y + 0.3 * radius, ink)
    elif emblem == "disc":
        pen.disc(x, y, 0.9 * radius, ink)
    else:
        pen.polygon([(x + radius * a, y + radius * b) for a, b in _OUTLINES[emblem]], ink)


_OUTLINES: dict[str, list[Point]] = {
    "diamond": [(0, -1), (0.7, 0), (0, 1), (-0.7, 0)],
    "triangle": [(0, -0.9), (0.95, 0.8), (-0.95, 0.8)],
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "bolt": [(0.35, -1), (-0.6, 0.15), (-0.05, 0.15), (-0.35, 1), (0.6, -0.2), (0.05, -0.2)],
    "hexagon": regular(0, 0, 0.95, 6),
    "hourglass": [(-0.8, -1), (0.8, -1), (-0.8, 1), (0.8, 1)],
}

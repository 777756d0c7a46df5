"""Draw a design as a flat RGBA texture, seen from the front; `photograph` renders it as a photograph."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from rag_clip.demo.designs import Design
from rag_clip.demo.pen import Pen, Point, draw_emblem, regular

_PLACES: dict[str, list[Point]] = {
    "one": [(0, 0)],
    "two": [(-1, -1), (1, 1)],
    "three": [(-1, -1), (0, 0), (1, 1)],
    "four": [(-1, -1), (1, -1), (-1, 1), (1, 1)],
    "five": [(-1, -1), (1, -1), (0, 0), (-1, 1), (1, 1)],
    "six": [(-1, -1), (1, -1), (-1, 0), (1, 0), (-1, 1), (1, 1)],
}


def _tricolour(pen: Pen, layout: str, first: str, second: str, third: str) -> None:
    left, right, top, bottom = 0.04, 0.96, 0.2, 0.8
    if layout == "horizontal":
        for k, colour in enumerate((first, second, third)):
            pen.box(left, top + 0.2 * k, right, top + 0.2 * (k + 1), colour)
    elif layout == "vertical":
        for k, colour in enumerate((first, second, third)):
            pen.box(left + 0.92 / 3 * k, top, left + 0.92 / 3 * (k + 1), bottom, colour)
    else:
        pen.box(left, top, right, bottom, second)
        near, far, slope = (left, right, 0.62) if layout == "falling" else (right, left, -0.62)
        pen.polygon([(near, top + 0.15), (near, bottom), (near + slope, bottom)], first)
        pen.polygon([(far, bottom - 0.15), (far, top), (far - slope, top)], third)


def _cross_flag(pen: Pen, layout: str, field: str, ink: str, edge: str) -> None:
    pen.box(0.04, 0.2, 0.96, 0.8, field)
    for colour, half in ((edge, 0.105), (ink, 0.055)):
        if layout == "diagonal":
            for top, bottom in ((0.2, 0.8), (0.8, 0.2)):
                ends = [(0.04 - half, top), (0.04 + half, top), (0.96 + half, bottom), (0.96 - half, bottom)]
                pen.polygon([(min(max(px, 0.04), 0.96), py) for px, py in ends], colour)
        else:
            x = 0.5 if layout == "upright" else 0.36
            pen.box(x - half, 0.2, x + half, 0.8, colour)
            pen.box(0.04, 0.5 - half, 0.96, 0.5 + half, colour)


def _canton_flag(pen: Pen, first: str, second: str, corner: str, emblem: str, ink: str) -> None:
    for k in range(5):
        pen.box(0.04, 0.2 + 0.12 * k, 0.96, 0.2 + 0.12 * (k + 1), first if k % 2 == 0 else second)
    pen.box(0.04, 0.2, 0.5, 0.56, corner)
    draw_emblem(pen, emblem, 0.27, 0.38, 0.14, ink, corner)


def _banner(pen: Pen, tail: str, first: str, second: str, emblem: str, ink: str) -> None:
    bottom = 0.95
    pen.box(0.22, 0.05, 0.5, 0.5, first)
    pen.box(0.5, 0.5, 0.78, bottom, first)
    pen.box(0.5, 0.05, 0.78, 0.5, second)
    pen.box(0.22, 0.5, 0.5, bottom, second)
    draw_emblem(pen, emblem, 0.5, 0.42, 0.19, ink, first)
    if tail == "forked":
        outline = Pen()
        outline.polygon([(0.22, 0.05), (0.78, 0.05), (0.78, bottom), (0.5, 0.7), (0.22, bottom)], "black")
        pen.clip(outline)


def _pennant(pen: Pen, field: str, mark: str, ink: str, tip: str) -> None:
    outline = Pen()
    outline.polygon([(0.05, 0.18), (0.97, 0.5), (0.05, 0.82)], "black")
    pen.box(0, 0, 1, 1, ink if mark == "border" else field)
    if mark == "hoist":
        pen.box(0, 0, 0.24, 1, ink)
    elif mark == "stripe":
        pen.box(0, 0.43, 1, 0.57, ink)
    elif mark == "spot":
        pen.disc(0.28, 0.5, 0.13, ink)
    elif mark == "border":
        pen.polygon([(0.13, 0.3), (0.72, 0.5), (0.13, 0.7)], field)
    else:
        pen.box(0.14, 0, 0.24, 1, ink)
        pen.box(0.36, 0, 0.46, 1, ink)
    pen.box(0.66, 0, 1, 1, tip)
    pen.clip(outline)


def _shield(pen: Pen, layout: str, first: str, second: str, emblem: str, ink: str) -> None:
    outline = Pen()
    outer = [(0.14, 0.06), (0.86, 0.06), (0.86, 0.5), (0.72, 0.78), (0.5, 0.96), (0.28, 0.78), (0.14, 0.5)]
    outline.polygon(outer, "black")
    pen.box(0, 0, 1, 1, first)
    if layout == "pale":
        pen.box(0.5, 0, 1, 1, second)
    elif layout == "fess":
        pen.box(0, 0.48, 1, 1, second)
    elif layout == "bend":
        pen.polygon([(0, 0), (0, 1), (1, 1)], second)
    elif layout == "sinister":
        pen.polygon([(1, 0), (0, 1), (1, 1)], second)
    elif layout == "chevron":
        pen.polygon([(0.5, 0.45), (1, 0.8), (1, 1), (0, 1), (0, 0.8)], second)
    else:
        pen.box(0, 0, 1, 1, second)
        inner = [(0.26, 0.18), (0.74, 0.18), (0.74, 0.48), (0.64, 0.7), (0.5, 0.82), (0.36, 0.7), (0.26, 0.48)]
        pen.polygon(inner, first)
    draw_emblem(pen, emblem, 0.5, 0.4, 0.18, ink, first)
    pen.clip(outline)


def _road_sign(pen: Pen, shape: str, field: str, rim: str, emblem: str, ink: str) -> None:
    centre = {"triangular": 0.58, "inverted": 0.42}.get(shape, 0.5)
    for colour, radius in ((rim, 0.46), (field, 0.35)):
        if shape == "round":
            pen.disc(0.5, 0.5, radius, colour)
            continue
        corners, turn = {
            "triangular": (3, -math.pi / 2),
            "inverted": (3, math.pi / 2),
            "octagonal": (8, math.pi / 8),
            "diamond": (4, 0.0),
            "square": (4, math.pi / 4),
        }[shape]
        pen.polygon(regular(0.5, centre, radius * (1.15 if corners == 3 else 1.05), corners, turn), colour)
    draw_emblem(pen, emblem, 0.5, centre, 0.17 if shape in ("triangular", "inverted") else 0.21, ink, field)


def _arrow_board(pen: Pen, way: str, count: str, shape: str, field: str, ink: str) -> None:
    if shape == "round":
        pen.disc(0.5, 0.5, 0.46, field)
    else:
        pen.box(0.07, 0.07, 0.93, 0.93, field)
    turn = {"right": 0, "down": 1, "left": 2, "up": 3}[way]
    number = ("one", "two", "three").index(count) + 1
    for k in range(number):
        y = 0.22 * (k - (number - 1) / 2)
        half = 0.16 if number == 1 else 0.09
        arrow = [(-0.28, y - half / 3), (0.05, y - half / 3), (0.05, y - half), (0.3, y), (0.05, y + half)]
        arrow += [(0.05, y + half / 3), (-0.28, y + half / 3)]
        for _ in range(turn):
            arrow = [(-py, px) for px, py in arrow]
        pen.polygon([(0.5 + px, 0.5 + py) for px, py in arrow], ink)


def _die(pen: Pen, count: str, pip: str, field: str, ink: str) -> None:
    pen.box(0.1, 0.1, 0.9, 0.9, field)
    for x, y in _PLACES[count]:
        emblem = {"round": "disc", "square": "square", "diamond": "diamond"}[pip]
        draw_emblem(pen, emblem, 0.5 + 0.24 * x, 0.5 + 0.26 * y, 0.1, ink, field)


def _card(pen: Pen, count: str, emblem: str, ink: str, rim: str, field: str) -> None:
    pen.box(0.18, 0.04, 0.82, 0.96, rim)
    pen.box(0.24, 0.1, 0.76, 0.9, field)
    radius = 0.2 if count == "one" else 0.12
    for x, y in _PLACES[count]:
        draw_emblem(pen, emblem, 0.5 + 0.13 * x, 0.5 + 0.26 * y, radius, ink, field)


def _buoy(pen: Pen, form: str, first: str, second: str, top: str, ink: str) -> None:
    outline = Pen()
    if form == "cone":
        outline.polygon([(0.5, 0.3), (0.82, 0.96), (0.18, 0.96)], "black")
    else:
        half = 0.26 if form == "can" else 0.12
        outline.box(0.5 - half, 0.34, 0.5 + half, 0.96, "black")
    pen.box(0, 0.3, 1, 0.64, first)
    pen.box(0, 0.64, 1, 1, second)
    pen.clip(outline)
    pen.box(0.485, 0.26, 0.515, 0.36, "black")
    if top == "ball":
        pen.disc(0.5, 0.17, 0.12, ink)
    elif top == "cross":
        draw_emblem(pen, "plus", 0.5, 0.16, 0.13, ink, "white")
    elif top == "box":
        pen.box(0.39, 0.06, 0.61, 0.28, ink)
    else:
        pen.box(0.485, 0.03, 0.515, 0.3, "black")
        pen.polygon([(0.515, 0.03), (0.8, 0.13), (0.515, 0.23)], ink)


def _signal_lamp(pen: Pen, layout: str, first: str, second: str, third: str, field: str) -> None:
    if layout == "upright":
        pen.box(0.31, 0.04, 0.69, 0.96, field)
    else:
        pen.box(0.04, 0.31, 0.96, 0.69, field)
    for k, colour in enumerate((first, second, third)):
        along = 0.21 + 0.29 * k
        pen.disc(*((0.5, along) if layout == "upright" else (along, 0.5)), 0.125, colour)


_DRAWERS: dict[str, Callable[..., None]] = {
    "tricolour": _tricolour,
    "cross flag": _cross_flag,
    "canton flag": _canton_flag,
    "banner": _banner,
    "pennant": _pennant,
    "shield": _shield,
    "road sign": _road_sign,
    "arrow board": _arrow_board,
    "die": _die,
    "card": _card,
    "buoy": _buoy,
    "signal lamp": _signal_lamp,
}


def draw_design(design: Design) -> np.ndarray:
    """Return the texture of a design, uint8 [TEXTURE, TEXTURE, 4] with straight alpha."""
    pen = Pen()
    _DRAWERS[design.family](pen, **design.as_dict())
    return pen.texture()

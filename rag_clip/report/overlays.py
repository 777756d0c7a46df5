"""Masks drawn over their image, with a legend below, and heat maps."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from rag_clip.classifiers.segmentation import enlarge
from rag_clip.files.rle import decode_mask

SIDE = 512
STRENGTH = 0.5
LINE, MARGIN, FONT = 20, 6, 13
GOLDEN = 0.61803399


def draw_overlay(
    picture: Image.Image, masks: Sequence[Mapping[str, Any]], *, colours: Mapping[str, int]
) -> Image.Image:
    """Return the image with its masks in colour, at most 512 pixels wide or high, over a legend.

    picture: the decoded image.
    masks: rows of `segment`: label, share, height, width and counts; rows without label are skipped.
    colours: the number of each label, which decides its colour in all images.
    """
    ratio = min(1.0, SIDE / max(picture.size))
    size = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
    shown = np.asarray(picture.convert("RGB").resize(size), np.float32)
    drawn = [mask for mask in masks if mask["label"] is not None]
    for mask in drawn:
        pixels = decode_mask(mask["counts"], (mask["height"], mask["width"]))
        there = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))
        colour = np.array(colour_of(colours[mask["label"]]), np.float32)
        shown = np.where(there[..., None], (1 - STRENGTH) * shown + STRENGTH * colour, shown)
    lines = [(f"{mask['label']} {mask['share']:.0%}", colour_of(colours[mask["label"]])) for mask in drawn]
    return _with_legend(Image.fromarray(shown.round().astype(np.uint8)), lines or [("background alone", (128,) * 3)])


def draw_heat(picture: Image.Image, values: torch.Tensor) -> Image.Image:
    """Return the image in grey under a map of values [rows, columns], from blue, the least, to red, the largest."""
    width, height = picture.size
    large = enlarge(values[None].float(), (height, width))[0]
    span = float(large.max() - large.min())
    level = ((large - large.min()) / span if span > 0 else torch.zeros_like(large)).numpy()
    ramp = np.array([(20, 30, 110), (40, 140, 200), (250, 220, 90), (215, 25, 30)], np.float32)
    heat = np.stack([np.interp(level, (0, 1 / 3, 2 / 3, 1), ramp[:, channel]) for channel in range(3)], axis=-1)
    grey = np.asarray(picture.convert("L"), np.float32)[..., None]
    return Image.fromarray(((1 - STRENGTH) * grey + STRENGTH * heat).round().astype(np.uint8))


def colour_of(number: int) -> tuple[int, int, int]:
    """Return a colour for class `number`; neighbouring numbers differ most."""
    lightness = (0.5, 0.65, 0.38)[number % 3]
    red, green, blue = colorsys.hls_to_rgb(number * GOLDEN % 1, lightness, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


def _with_legend(image: Image.Image, lines: Sequence[tuple[str, tuple[int, ...]]]) -> Image.Image:
    font = ImageFont.load_default(FONT)
    width = max(image.width, *(round(font.getlength(text)) + LINE + 2 * MARGIN for text, _ in lines))
    sheet = Image.new("RGB", (width, image.height + LINE * len(lines) + MARGIN), "white")
    sheet.paste(image, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for row, (text, colour) in enumerate(lines):
        top = image.height + MARGIN // 2 + row * LINE
        draw.rectangle((MARGIN, top + 4, MARGIN + 12, top + 16), fill=colour)
        draw.text((MARGIN + LINE, top + 2), text, fill="black", font=font)
    return sheet

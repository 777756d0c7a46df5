"""How often the demo encoder recognises what the micro world's painter paints.

    python tests/benchmarks/painter.py [--sheet PNG]

A class is the mean of descriptions of its design. Images are painted for other descriptions of the design, and for the
name alone; beside them stand photographs and plain renders of the design. The sheet shows, in rows of head, tail and
unseen concepts: a render, two images for a description, and one for the name.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate, normalize

from rag_clip.demo.captions import describe
from rag_clip.demo.concepts import BANDS, concepts
from rag_clip.demo.make import VALIDATION_SEED
from rag_clip.demo.paint import backdrop
from rag_clip.demo.painter import FOLDER, demo_painter
from rag_clip.demo.photograph import photograph
from rag_clip.demo.train import textures
from rag_clip.models.open_clip import load_encoder

SEED, DESCRIPTIONS, COLUMNS, ROWS = 5, 8, 8, 2
KNOWN = np.array([concept.band for concept in concepts()])


def to_images(values: torch.Tensor) -> list[Image.Image]:
    """Turn uint8 [n, 3, h, w] into images."""
    return [Image.fromarray(pixels) for pixels in values.permute(0, 2, 3, 1).numpy()]


def share_by_band(found: np.ndarray) -> dict[str, float]:
    """Share of images found right, per band; one image per concept and repetition, repetitions one after another."""
    right = found == np.arange(len(found)) % len(KNOWN)
    bands = np.tile(KNOWN, len(found) // len(KNOWN))
    return {band: round(float(right[bands == band].mean()), 3) for band in BANDS}


def write_sheet(path: Path, columns: list[list[Image.Image]]) -> None:
    """Write rows of concepts of each band, each with one image of every column, three times enlarged."""
    side, gap = columns[0][0].width, 4
    width = COLUMNS * (len(columns) * (side + 1) + gap)
    sheet = Image.new("RGB", (width, len(BANDS) * ROWS * (side + gap)), "white")
    for number, band in enumerate(BANDS):
        for place, row in enumerate(
            np.flatnonzero(band == KNOWN)[:: len(KNOWN) // 3 // (COLUMNS * ROWS)][: COLUMNS * ROWS]
        ):
            left = place % COLUMNS * (len(columns) * (side + 1) + gap)
            top = (number * ROWS + place // COLUMNS) * (side + gap)
            for offset, column in enumerate(columns):
                sheet.paste(column[row], (left + offset * (side + 1), top))
    sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST).save(path)


def main() -> None:
    """Measure, and write the sheet where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--steps", type=int)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    encoder = load_encoder("demo", device="cpu", precision="fp32")
    painter = demo_painter(encoder, guidance=asked.guidance, steps=asked.steps, folder=asked.folder)
    draw = np.random.default_rng(SEED)
    told = [describe(concept.design, draw) for concept in concepts() for _ in range(DESCRIPTIONS + 2)]
    by_concept = [told[start : start + DESCRIPTIONS + 2] for start in range(0, len(told), DESCRIPTIONS + 2)]
    embedded = encoder.encode_text([text for texts in by_concept for text in texts[2:]])
    classes = normalize(embedded.view(len(KNOWN), DESCRIPTIONS, -1).mean(1), dim=1)
    drawn = textures([concept.design for concept in concepts()]).repeat(2, 1, 1, 1)
    plain = ((backdrop(drawn, seed=VALIDATION_SEED) + 1) * 127.5).round().to(torch.uint8)
    small = interpolate(photograph(drawn, seed=VALIDATION_SEED).float(), size=(32, 32), mode="area").to(torch.uint8)
    start = time.process_time()
    described = painter.paint([texts[k] for k in range(2) for texts in by_concept], seeds=range(2 * len(KNOWN)))
    seconds = time.process_time() - start
    named = painter.paint([f"a photo of {concept.name}" for concept in concepts()] * 2, seeds=range(2 * len(KNOWN)))
    kinds = {
        "photographs": to_images(photograph(drawn, seed=VALIDATION_SEED)),
        "photographs, 32 px": to_images(small),
        "renders, 32 px": to_images(plain),
        "painted for a description": described,
        "painted for the name": named,
    }
    for kind, images in kinds.items():
        found = (encoder.encode_images(images).pooled @ classes.T).argmax(1).numpy()
        print(json.dumps({"images": kind, **share_by_band(found)}))
    print(json.dumps({"guidance": painter.settings["guidance"], "steps": painter.settings["steps"],
                      "cpu_seconds_per_image": round(seconds / len(described), 4)}))  # fmt: skip
    if asked.sheet:
        half = len(KNOWN)
        write_sheet(asked.sheet, [to_images(plain)[:half], described[:half], described[half:], named[:half]])


if __name__ == "__main__":
    main()

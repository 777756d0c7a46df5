"""LiT: a text tower trained for a locked image tower, against both towers from new weights, with the same pairs.

`python -m adaptation.lit [--steps 300] [--batch 128] [--pairs 8000] [--seeds 3] [--out FILE]`, in tests/benchmarks.

Locked is the bundled image encoder that was trained without words (demo:second), whose features are computed once. The
claim (Zhai et al., 2022, arXiv 2111.07991; on ImageNet 70.1 against 50.6): at equal steps the locked tower is ahead by
five points or more in accuracy by descriptions, in at most half the time.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from adaptation import world
from torch.nn.functional import interpolate

from rag_clip.models.open_clip import load_encoder, with_text
from rag_clip.models.timm_models import VisionEncoder
from rag_clip.models.towers import TwoTowers
from rag_clip.training.adapt import FINE_TUNING, Manner, adapt
from rag_clip.training.batches import Examples
from rag_clip.training.objectives.clip import Clip
from rag_clip.training.towers import Lock

RATE = 2e-3


def main() -> None:
    """Train both arms for each seed, and print their accuracies, the paired difference and the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("--steps", 300), ("--batch", 128), ("--pairs", 8000), ("--seeds", 3)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    second = load_encoder("demo:second", device="cpu")
    assert isinstance(second, VisionEncoder)
    schedule = replace(FINE_TUNING, steps=asked.steps, batch_size=asked.batch, rate=RATE, warm_up=20)
    for seed in range(asked.seeds):
        drawn = world.draw_world(asked.pairs, seed=seed)
        large = Examples(partial(rows_of, enlarge(drawn.pixels)), drawn.examples.captions)
        start = time.perf_counter()
        locked = adapt(
            with_text(second, world.bundled(), seed=seed),
            large,
            Clip(),
            manner=Manner(Lock(image=True)),
            schedule=replace(schedule, seed=seed),
        )
        middle = time.perf_counter()
        both = adapt(
            world.from_scratch(seed),
            drawn.examples,
            Clip(),
            manner=Manner(least_area=1.0),
            schedule=replace(schedule, seed=seed),
        )
        seconds = middle - start, time.perf_counter() - middle
        shown = world.photographs(world.TEST_SEED, world.TESTED)
        arms = [measure(locked.encoder, enlarge(shown)), measure(both.encoder, shown)]
        gain, low, high = world.interval(arms[1], arms[0])
        line = (
            f"lit: seed {seed}, {asked.steps} steps of {asked.batch}, {asked.pairs} pairs: locked "
            f"{100 * arms[0].mean():.1f} in {seconds[0]:.0f} s, both from new weights {100 * arms[1].mean():.1f} in "
            f"{seconds[1]:.0f} s, difference {gain:+.1f} ({low:+.1f} to {high:+.1f})"
        )
        print(line, flush=True)
        if asked.out:
            with asked.out.open("a") as file:
                file.write(line + "\n")


def rows_of(pixels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return some of the pixels."""
    return pixels[rows]


def enlarge(pixels: torch.Tensor) -> torch.Tensor:
    """Resize pixels uint8 [n, 3, 48, 48] to the 64 pixels of the second encoder."""
    resized = interpolate(pixels.float(), size=(64, 64), mode="bicubic", align_corners=False)
    return resized.round().clamp(0, 255).to(torch.uint8)


def measure(encoder: TwoTowers, pixels: torch.Tensor) -> np.ndarray:
    """Return whether each photograph of all concepts is classified rightly by descriptions, bool [n]."""
    return world.right(world.description_weights(encoder), world.embed(encoder, pixels))


if __name__ == "__main__":
    main()

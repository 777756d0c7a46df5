"""CAR-FT on the micro world: fine-tuning in one visible context, and what remains of the others.

    PYTHONPATH=tests/benchmarks python -m adaptation.carft [--steps N] [--seeds N] [--condition NAME] [--folder DIR]

The contexts of the world's captions are seen nowhere in its photographs, so five are made visible (dark, blurred,
noisy, occluded, tilted) and named in captions while the bundled CLIP is trained further; whether it then says the true
context of a photograph is printed first. Its image tower is fine-tuned on photographs of all 360 designs in one
context, to be classified by descriptions in all five. Accuracy in percent on other photographs: in that context, in the
four others, and on a new background.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from adaptation.world import FIRST_STEP, bundled, embed, interval, source, to_pixels
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, normalize

from rag_clip.data import LabelSet
from rag_clip.demo.captions import describe
from rag_clip.demo.concepts import concepts
from rag_clip.demo.photograph import PHOTO, photograph
from rag_clip.demo.train import draw_pairs, textures
from rag_clip.models.folder import write_model
from rag_clip.models.open_clip import load_encoder
from rag_clip.models.towers import TwoTowers, two_towers
from rag_clip.training.adapt import FINE_TUNING, Manner, adapt
from rag_clip.training.batches import Examples, Head
from rag_clip.training.objective import Objective
from rag_clip.training.objectives.carft import CarFt, context_weights
from rag_clip.training.objectives.clip import Clip
from rag_clip.training.objectives.labels import Labels
from rag_clip.training.towers import Lock, unlocked
from rag_clip.training.weights import interpolate, with_weights

CONTEXTS = ("dark", "blurred", "noisy", "occluded", "tilted")
NEW = "new background"
PAIRS, SHOTS, TESTED = 6144, 8, 1
TRAINING_SEED, TEST_SEED = 2**62 + 100_000, 2**62 + 110_000
CONTINUED = replace(FINE_TUNING, rate=5e-4, batch_size=128, warm_up=20)
TUNED = replace(FINE_TUNING, rate=3e-4, batch_size=64, warm_up=10)


def in_context(photographs: torch.Tensor, context: str, *, seed: int) -> torch.Tensor:
    """Return photographs uint8 [n, 3, h, w] as they are in a context; `NEW` leaves them as they are."""
    draw = torch.Generator().manual_seed(seed)
    values, (n, _, height, width) = photographs.float() / 255, photographs.shape
    if context == "dark":
        values = values * 0.25
    elif context == "blurred":
        for _ in range(2):
            values = avg_pool2d(values, 7, stride=1, padding=3, count_include_pad=False)
    elif context == "noisy":
        values = values + 0.2 * torch.randn(values.shape, generator=draw)
    elif context == "occluded":
        side = height // 2
        for row, (top, left) in enumerate(torch.randint(0, height - side, (n, 2), generator=draw).tolist()):
            values[row, :, top : top + side, left : left + side] = torch.rand(3, 1, 1, generator=draw)
    elif context == "tilted":
        angle = (torch.rand(n, generator=draw) * 0.5 + 0.8) * torch.where(torch.rand(n, generator=draw) < 0.5, -1, 1)
        zero, cosine, sine = torch.zeros(n), angle.cos(), angle.sin()
        turn = torch.stack([cosine, -sine, zero, sine, cosine, zero], dim=1).view(n, 2, 3)
        grid = affine_grid(turn, [n, 3, height, width], align_corners=False)
        values = grid_sample(values, grid, padding_mode="reflection", align_corners=False)
    return (values.clamp(0, 1) * 255).round().to(torch.uint8)


def on_stripes(drawn: torch.Tensor, *, seed: int) -> torch.Tensor:
    """Return photographs of textures uint8 [n, 4, t, t] before vivid stripes, which no other photograph has."""
    draw = torch.Generator().manual_seed(seed)
    n, side = len(drawn), drawn.shape[-1]
    wide = torch.nn.functional.pad(drawn.float() / 255, [side // 4] * 4)  # [n, 4, 1.5 t, 1.5 t]
    phase = (torch.arange(wide.shape[-1]) + torch.arange(wide.shape[-1])[:, None]) // max(1, side // 8) % 2
    first, second = (torch.rand(n, 3, 1, 1, generator=draw) for _ in range(2))
    stripes = torch.where(phase.bool(), first, second)
    ink = wide[:, 3:]
    seen = torch.cat([wide[:, :3] * ink + stripes * (1 - ink), torch.ones_like(ink)], dim=1)
    size, margin = PHOTO * 3 // 2, PHOTO // 4
    shown = photograph((seen * 255).round().to(torch.uint8), seed=seed, size=size)
    return shown[..., margin : margin + PHOTO, margin : margin + PHOTO]


@cache
def drawn() -> torch.Tensor:
    """Return the textures of all concepts."""
    return textures([concept.design for concept in concepts()])


def shots(context: str, *, seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `count` photographs of every concept in a context, at the model's size, and their classes."""
    shown = []
    for k in range(count):
        made = on_stripes(drawn(), seed=seed + k) if context == NEW else photograph(drawn(), seed=seed + k)
        shown.append(to_pixels(in_context(made, context, seed=seed + k)))
    return torch.cat(shown), torch.arange(len(concepts())).repeat(count)


def captioned() -> Examples:
    """Return pairs whose photographs are each in one of the contexts, which its caption begins with."""
    shown, captions = [], []
    draw = np.random.default_rng(21)
    for step in range(PAIRS // source().batch):
        chosen, texts, light = draw_pairs(source(), FIRST_STEP + 900_000 + step)
        photographs = photograph(chosen, seed=light)
        contexts = draw.integers(len(CONTEXTS), size=len(texts))
        for number, context in enumerate(CONTEXTS):
            rows = torch.from_numpy(np.flatnonzero(contexts == number))
            photographs[rows] = in_context(photographs[rows], context, seed=int(draw.integers(2**62)))
        shown.append(to_pixels(photographs))
        captions += [(f"{CONTEXTS[number]} photo, {text}",) for number, text in zip(contexts, texts, strict=True)]
    pixels = torch.cat(shown)
    return Examples(lambda rows: pixels[rows], captions)


def continued(folder: Path | None, steps: int) -> TwoTowers:
    """Return the bundled CLIP after it was trained on the contexts, from a folder if it is there."""
    if folder is not None and (folder / "adapt.json").is_file():
        return two_towers(load_encoder(f"local-dir:{folder}", device="cpu"))
    encoder = adapt(bundled(), captioned(), Clip(), schedule=replace(CONTINUED, steps=steps)).encoder
    if folder is not None:
        write_model(encoder, folder, {"steps": steps})
    return encoder


def described(encoder: TwoTowers) -> Head:
    """Return the head of all designs by one description each, in every context."""
    draw = np.random.default_rng(12)
    said = [describe(concept.design, draw) for concept in concepts()]
    texts = tuple(tuple(f"{context} photo, {text}" for context in CONTEXTS) for text in said)
    vectors = encoder.encode_text([text for group in texts for text in group]).view(len(texts), len(CONTEXTS), -1)
    labels = LabelSet(tuple(concept.name for concept in concepts()))
    return Head(labels, normalize(vectors.mean(1), dim=-1), texts)


@cache
def tests() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return the test photographs of every context and of the new background."""
    return {
        context: shots(context, seed=TEST_SEED + 1000 * number, count=TESTED)
        for number, context in enumerate((*CONTEXTS, NEW))
    }


def right(encoder: TwoTowers, head: Head) -> dict[str, np.ndarray]:
    """Return which test photographs of each context are classified rightly."""
    found = {}
    for context, (pixels, targets) in tests().items():
        found[context] = ((embed(encoder, pixels) @ head.weights.T).argmax(1) == targets).numpy()
    return found


def context_accuracy(encoder: TwoTowers, head: Head) -> float:
    """Return how often the context of a test photograph is the most probable one, in percent; chance is 20."""
    weights = context_weights(unlocked(encoder), head)  # [M, d]
    hits = [
        ((embed(encoder, tests()[context][0]) @ weights.T).argmax(1) == number).float().mean()
        for number, context in enumerate(CONTEXTS)
    ]
    return 100 * float(torch.stack(hits).mean())


def arms(start: TwoTowers, head: Head, condition: str, *, steps: int, seed: int) -> Iterator[tuple[str, TwoTowers]]:
    """Yield the arms of a seed."""
    pixels, targets = shots(condition, seed=TRAINING_SEED + 1000 * seed, count=SHOTS)
    examples = Examples(lambda rows: pixels[rows], targets=targets, head=head)
    schedule = replace(TUNED, steps=steps, seed=seed)
    objectives: dict[str, Objective] = {"labels": Labels(), "carft": CarFt()}
    yield "zero-shot", start
    for name, objective in objectives.items():
        tuned = adapt(start, examples, objective, manner=Manner(Lock(text=True)), schedule=schedule).encoder
        yield name, tuned
        state = interpolate(start.model.state_dict(), tuned.model.state_dict(), 0.5)
        yield f"{name} + WiSE .5", with_weights(start, state)


def main() -> None:
    """Print the arms of each seed, then their means and the paired differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--continued", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--condition", choices=CONTEXTS, default="dark")
    parser.add_argument("--folder", type=Path, help="keeps the model that was trained on the contexts")
    asked = parser.parse_args()
    start = continued(asked.folder, asked.continued)
    head = described(start)
    known = context_accuracy(start, head)
    print(f"scale {start.scale:.1f}; context of a photograph right: {known:.1f} % (chance 20)", flush=True)
    outside = [context for context in (*CONTEXTS, NEW) if context != asked.condition]
    found: dict[str, list[dict[str, np.ndarray]]] = {}
    for seed in range(asked.seeds):
        began = perf_counter()
        for name, encoder in arms(start, head, asked.condition, steps=asked.steps, seed=seed):
            found.setdefault(name, []).append(right(encoder, head))
            shown = describe_runs(found[name][-1:], asked.condition, outside)
            print(f"seed {seed} {name:24} {shown}  ({perf_counter() - began:.0f} s)", flush=True)
    print(f"fine-tuned {asked.condition}; mean and standard deviation of {asked.seeds} seeds, {asked.steps} steps")
    for name, runs in found.items():
        print(f"  {name:24} {describe_runs(runs, asked.condition, outside)}")

    def per_photograph(name: str) -> np.ndarray:
        """Return the share of seeds in which each photograph of the other contexts is classified rightly."""
        mean: np.ndarray = np.mean([np.concatenate([run[each] for each in outside]) for run in found[name]], axis=0)
        return mean

    for name in found:
        gain, low, high = interval(per_photograph("labels"), per_photograph(name))
        print(f"  out of distribution against labels, {name}: {gain:+.1f} [{low:+.1f}, {high:+.1f}]")


def describe_runs(runs: Sequence[dict[str, np.ndarray]], inside: str, outside: Sequence[str]) -> str:
    """Return the accuracies within and outside of the context, and those of each."""

    def spread(values: Sequence[float]) -> str:
        return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")

    within = spread([100 * run[inside].mean() for run in runs])
    others = spread([100 * np.mean([run[context].mean() for context in outside]) for run in runs])
    each = "  ".join(f"{context} {np.mean([100 * run[context].mean() for run in runs]):.1f}" for context in outside)
    return f"in {within}  out {others}  ({each})"


if __name__ == "__main__":
    main()

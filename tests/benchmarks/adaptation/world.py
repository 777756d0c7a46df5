"""Pairs of the micro world as training examples, a fresh micro CLIP, and what an adapted encoder is measured by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch.nn.functional import interpolate, normalize

from rag_clip.data import LabelSet
from rag_clip.demo.captions import describe
from rag_clip.demo.concepts import concepts
from rag_clip.demo.photograph import photograph
from rag_clip.demo.train import Pairs, draw_pairs, make_pairs, textures
from rag_clip.models.open_clip import fresh, load_encoder
from rag_clip.models.towers import TwoTowers
from rag_clip.training.batches import Examples, Head

PIXELS = 48
DESCRIPTIONS = 8
TESTED = 4  # photographs per concept
TEST_SEED, SHOT_SEED = 2**62 + 50_000, 2**62 + 60_000
FIRST_STEP = 20_000_000  # of draws, beyond those that trained the bundled model
AT_ONCE = 256
BANDS = np.array([concept.band for concept in concepts()])


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """Pairs drawn once: `examples` with a caption each, `wrong` bool [n] where captions were swapped."""

    examples: Examples
    pixels: torch.Tensor
    wrong: torch.Tensor


@cache
def bundled() -> TwoTowers:
    """Return the bundled CLIP on the CPU."""
    encoder = load_encoder("demo", device="cpu")
    assert isinstance(encoder, TwoTowers)
    return encoder


def from_scratch(seed: int) -> TwoTowers:
    """Return a micro CLIP whose towers are newly initialised."""
    return fresh(bundled(), towers="both", seed=seed)


@cache
def source() -> Pairs:
    """Return the pairs that the bundled CLIP was trained on, 256 to a draw."""
    return make_pairs()


def draw_world(count: int, *, seed: int = 0, swapped: float = 0.0, edit: Callable[[str], str] | None = None) -> World:
    """Draw pairs as the bundled CLIP saw them: half named concepts by frequency, half designs without a name.

    count: number of pairs.
    seed: of the draws; equal seeds give equal photographs and captions.
    swapped: share of pairs whose captions are permuted among one another.
    edit: changes each caption.
    """
    shown, captions = [], []
    for step in range(-(-count // source().batch)):
        chosen, texts, light = draw_pairs(source(), FIRST_STEP + 10_000 * seed + step)
        shown.append(to_pixels(photograph(chosen, seed=light)))
        captions += texts
    pixels, captions = torch.cat(shown)[:count], captions[:count]
    draw = np.random.default_rng([seed, 11])
    wrong = np.zeros(count, bool)
    wrong[draw.permutation(count)[: round(swapped * count)]] = True
    rows = np.flatnonzero(wrong)
    moved = dict(zip(rows.tolist(), np.roll(rows, 1).tolist(), strict=True))
    texts = [captions[moved.get(row, row)] for row in range(count)]
    edited = [(edit(text) if edit else text,) for text in texts]
    return World(Examples(lambda rows: pixels[rows], edited), pixels, torch.from_numpy(wrong))


def to_pixels(photographs: torch.Tensor) -> torch.Tensor:
    """Resize photographs uint8 [n, 3, h, w] to the model's input, uint8 [n, 3, 48, 48]."""
    resized = [
        interpolate(part.float(), size=(PIXELS, PIXELS), mode="bicubic", antialias=True, align_corners=False)
        for part in torch.split(photographs, AT_ONCE)
    ]
    return torch.cat(resized).round().clamp(0, 255).to(torch.uint8)


@cache
def photographs(seed: int, count: int) -> torch.Tensor:
    """Return `count` photographs of each concept, [count * 360, 3, 48, 48], concept by concept within each round."""
    drawn = textures([concept.design for concept in concepts()])
    return torch.cat([to_pixels(photograph(drawn, seed=seed + k)) for k in range(count)])


def labelled(rows: Sequence[int], *, seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `count` photographs of each of the concepts `rows`, and their classes as positions in `rows`."""
    drawn = textures([concepts()[row].design for row in rows])
    shown = torch.cat([to_pixels(photograph(drawn, seed=seed + k)) for k in range(count)])
    return shown, torch.arange(len(rows)).repeat(count)


def embed(encoder: TwoTowers, pixels: torch.Tensor) -> torch.Tensor:
    """Return unit features [n, d] of pixels."""
    with torch.no_grad():
        return torch.cat([encoder.encode_pixels(part).pooled for part in torch.split(pixels, AT_ONCE)])


def description_weights(encoder: TwoTowers) -> torch.Tensor:
    """Return unit class weights [360, d] from eight descriptions of each concept, none of which has its name."""
    draw = np.random.default_rng(12)
    texts = [describe(concept.design, draw) for concept in concepts() for _ in range(DESCRIPTIONS)]
    return normalize(encoder.encode_text(texts).view(len(concepts()), DESCRIPTIONS, -1).mean(1), dim=-1)


def name_weights(encoder: TwoTowers) -> torch.Tensor:
    """Return unit class weights [360, d] of "a photo of NAME"."""
    return encoder.encode_text([f"a photo of {concept.name}" for concept in concepts()])


def name_head(encoder: TwoTowers, rows: Sequence[int]) -> Head:
    """Return the head of some concepts' names."""
    labels = LabelSet(tuple(concepts()[row].name for row in rows))
    texts = tuple((f"a photo of {name}",) for name in labels.names)
    return Head(labels, encoder.encode_text([text for (text,) in texts]), texts)


def right(weights: torch.Tensor, features: torch.Tensor) -> np.ndarray:
    """Return whether each of the photographs of all concepts is classified rightly, bool [n]."""
    truth = torch.arange(len(weights)).repeat(len(features) // len(weights))
    found: np.ndarray = ((features @ weights.T).argmax(1) == truth).numpy()
    return found


@dataclass(frozen=True, slots=True)
class Measures:
    """Accuracy in percent: by descriptions, by names of head and tail, and by the nearest of four-shot means.

    `described` has one truth value per photograph, for paired intervals.
    """

    description: float
    head: float
    tail: float
    nearest: float
    described: np.ndarray

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"description {self.description:.1f}  names head {self.head:.1f} tail {self.tail:.1f}  "
            f"4-shot nearest mean {self.nearest:.1f}"
        )


def measure(encoder: TwoTowers) -> Measures:
    """Measure an encoder on photographs that trained nothing, four of each concept."""
    features = embed(encoder, photographs(TEST_SEED, TESTED))
    shots = embed(encoder, photographs(SHOT_SEED, 4)).view(4, len(BANDS), -1)
    described = right(description_weights(encoder), features)
    named = right(name_weights(encoder), features).reshape(TESTED, -1)
    near = right(normalize(shots.mean(0), dim=-1), features)
    bands = {band: 100 * float(named[:, band == BANDS].mean()) for band in ("head", "tail")}
    return Measures(100 * float(described.mean()), bands["head"], bands["tail"], 100 * float(near.mean()), described)


def interval(first: np.ndarray, second: np.ndarray, *, draws: int = 2000) -> tuple[float, float, float]:
    """Return the mean difference of two runs' truth values in points, and its paired 95 % bootstrap interval."""
    gain = second.astype(float) - first.astype(float)
    sampled = np.random.default_rng(0).choice(gain, (draws, len(gain))).mean(1)
    low, high = np.quantile(sampled, (0.025, 0.975))
    return 100 * float(gain.mean()), 100 * float(low), 100 * float(high)

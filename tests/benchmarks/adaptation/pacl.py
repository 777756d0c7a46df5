"""Does PACL make patches say what they show? Scenes of two to four photographs with known masks, in the micro world.

    cd tests/benchmarks && python -m adaptation.pacl [--steps 400] [--seeds 3] [--scenes 1500] [--out FILE]

A scene is 96 pixels wide: two to four of its quadrants have a photograph of a head concept, the others a plain ground.
The bundled CLIP sees it with interpolated positions, 12 x 12 patches. Captions name all that is in a scene. Both towers
are locked. Measured: mIoU over the 120 head concepts and the background, whose threshold is chosen on other scenes,
against raw patch tokens and those through the value path of the last layer; mIoU of concepts that no caption named, by
descriptions; and the accuracy of names on single photographs, by pooled features and by patches.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from adaptation.world import BANDS, PIXELS, TEST_SEED, bundled, embed, interval, labelled, name_weights, to_pixels
from torch.nn.functional import grid_sample, interpolate, normalize

from rag_clip.classifiers.segmentation import segment
from rag_clip.demo.captions import describe
from rag_clip.demo.concepts import concepts
from rag_clip.demo.photograph import _pose, photograph
from rag_clip.demo.train import textures
from rag_clip.metrics.segmentation import overlap
from rag_clip.models.folder import write_model
from rag_clip.models.open_clip import load_encoder
from rag_clip.models.patch_match import PatchMatch, start_match
from rag_clip.models.towers import TwoTowers, image_projection
from rag_clip.training.adapt import FINE_TUNING, Manner, adapt
from rag_clip.training.batches import Examples
from rag_clip.training.objectives.pacl import Pacl
from rag_clip.training.towers import Lock

SIDE = 2 * PIXELS
HEAD = np.flatnonzero(BANDS == "head")
UNSEEN = np.flatnonzero(BANDS == "unseen")
THRESHOLDS = np.linspace(-0.2, 0.9, 56)
AT_ONCE = 128


@dataclass(frozen=True, slots=True, eq=False)
class Scenes:
    """`pixels` uint8 [n, 3, 96, 96], `truth` int64 [n, 96, 96] (position in the concepts, or their number for the
    background), and the concepts of each."""

    pixels: torch.Tensor
    truth: torch.Tensor
    shown: list[list[int]]


def draw_scenes(count: int, rows: np.ndarray, *, seed: int) -> Scenes:
    """Draw scenes of the concepts `rows`; equal seeds give equal scenes."""
    draw = np.random.default_rng([seed, 21])
    drawn = textures([concepts()[row].design for row in rows])
    pixels = torch.zeros(count, 3, SIDE, SIDE, dtype=torch.uint8)
    truth = torch.full((count, SIDE, SIDE), len(rows))
    shown = []
    chosen = torch.from_numpy(draw.integers(len(rows), size=(count, 4)))
    plain = torch.from_numpy(draw.integers(50, 230, size=(count, 4, 3))).to(torch.uint8)
    sizes, orders = draw.integers(2, 5, size=count), draw.permuted(np.tile(np.arange(4), (count, 1)), axis=1)
    for quadrant in range(4):
        down, across = divmod(quadrant, 2)
        lines, columns = (slice(k * PIXELS, (k + 1) * PIXELS) for k in (down, across))
        for first in range(0, count, 1024):
            part = slice(first, first + 1024)
            light = int(draw.integers(2**62))
            pictured = drawn[chosen[part, quadrant]]
            photo = to_pixels(photograph(pictured, seed=light))
            cover = silhouettes(pictured, seed=light)
            there = torch.from_numpy((orders[part] < sizes[part, None])[:, quadrant])
            cell = torch.where(there[:, None, None, None], photo, plain[part, quadrant, :, None, None])
            pixels[part, :, lines, columns] = cell
            mask = there[:, None, None] & (cover > 0.5)
            truth[part, lines, columns] = torch.where(mask, chosen[part, quadrant, None, None], len(rows))
    for row in range(count):
        shown.append([int(chosen[row, quadrant]) for quadrant in range(4) if orders[row, quadrant] < sizes[row]])
    return Scenes(pixels, truth, shown)


def silhouettes(drawn: torch.Tensor, *, seed: int) -> torch.Tensor:
    """Return how much of each pixel the object covers in the photograph of a seed, [n, 48, 48]."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(len(drawn), *shape, generator=generator) * (high - low) + low

    cover = grid_sample(drawn[:, 3:].float() / 255, _pose(uniform, 64), align_corners=False)
    return interpolate(cover, size=(PIXELS, PIXELS), mode="area")[:, 0]


def wide_encoder() -> TwoTowers:
    """Return the bundled CLIP for images of 96 pixels, its positions interpolated."""
    config: dict[str, Any] = {**bundled().config}
    model = config["model_cfg"]
    config["model_cfg"] = {**model, "vision_cfg": {**model["vision_cfg"], "image_size": SIDE}}
    with TemporaryDirectory() as folder:
        write_model(replace(bundled(), config=config), Path(folder), {})
        wide = load_encoder(f"local-dir:{folder}", device="cpu")
    assert isinstance(wide, TwoTowers)
    return wide


def value_tokens(encoder: TwoTowers, pixels: torch.Tensor) -> torch.Tensor:
    """Return patch tokens through the value path of the last layer (MaskCLIP, Zhou et al., 2022), [n, p, D]."""
    visual, kept = encoder.model.visual, []
    last = visual.transformer.resblocks[-1]
    handle = last.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    encoder.model.encode_image(encoder.normalised(pixels))
    handle.remove()
    (states,) = kept
    if states.shape[0] != len(pixels):
        states = states.transpose(0, 1)
    attention, width = last.attn, states.shape[-1]
    values = last.ln_1(states) @ attention.in_proj_weight[2 * width :].T + attention.in_proj_bias[2 * width :]
    tokens: torch.Tensor = visual.ln_post(attention.out_proj(values)[:, 1:])
    return tokens


@torch.no_grad()
def encode(tokens: Callable[[torch.Tensor], torch.Tensor], scenes: Scenes) -> torch.Tensor:
    """Return the patch tokens of scenes, [n, p, D]."""
    return torch.cat([tokens(part) for part in torch.split(scenes.pixels, AT_ONCE)])


@torch.no_grad()
def segmented(
    tokens: torch.Tensor, match: PatchMatch, texts: torch.Tensor, shown: list[list[int]] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best class of each pixel and its cosine, [n, 96, 96]; among the classes `shown`, if given."""
    classes, values = [], []
    side = round(tokens.shape[1] ** 0.5)
    for row, each in enumerate(tokens):
        maps = match.maps(each[None], texts)[0].T.reshape(-1, side, side)
        if shown is not None:
            absent = torch.ones(len(texts), dtype=torch.bool)
            absent[shown[row]] = False
            maps = maps.masked_fill(absent[:, None, None], -1)
        place = segment(maps, size=(SIDE, SIDE))
        classes.append(place.classes)
        values.append(place.values)
    return torch.stack(classes), torch.stack(values)


def mean_iou(found: tuple[torch.Tensor, torch.Tensor], truth: torch.Tensor, threshold: float, classes: int) -> float:
    """Return the mIoU over the classes present and the background, in percent."""
    place, value = found
    return 100 * overlap(place.where(value >= threshold, classes), truth, classes=classes + 1).mean_iou


def choose(found: tuple[torch.Tensor, torch.Tensor], truth: torch.Tensor, classes: int) -> float:
    """Return the threshold of the best mIoU."""
    results = [mean_iou(found, truth, threshold, classes) for threshold in THRESHOLDS]
    return float(THRESHOLDS[int(np.argmax(results))])


def described(encoder: TwoTowers, rows: np.ndarray) -> torch.Tensor:
    """Return unit weights of concepts by eight descriptions each."""
    draw = np.random.default_rng(12)
    texts = [describe(concepts()[row].design, draw) for row in rows for _ in range(8)]
    return normalize(encoder.encode_text(texts).view(len(rows), 8, -1).mean(1), dim=-1)


def main() -> None:
    """Print a line per arm and seed, and append it to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--scenes", type=int, default=1500)
    parser.add_argument("--tested", type=int, default=150)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--beta", type=float, default=10.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()

    def say(text: str) -> None:
        print(text, flush=True)
        if given.out:
            with given.out.open("a") as file:
                file.write(f"pacl: {text}\n")

    wide = wide_encoder()
    names = name_weights(bundled())[HEAD]
    descriptions = described(bundled(), UNSEEN)
    sets = [draw_scenes(given.tested, rows, seed=901 + k) for k, rows in enumerate((HEAD, HEAD, UNSEEN, UNSEEN))]
    single, truth = labelled([int(row) for row in HEAD], seed=TEST_SEED, count=2)
    pooled = (embed(bundled(), single) @ names.T).argmax(1) == truth
    with torch.no_grad():
        single_tokens = torch.cat([bundled().patch_tokens(part) for part in torch.split(single, AT_ONCE)])
    untrained = start_match(image_projection(wide.model.visual), beta=given.beta).eval()
    say(
        f"{given.steps} steps of {given.batch}, {given.scenes} scenes, rate {given.rate}, beta {given.beta}, "
        f"{given.tested} scenes tested; names of single photographs by pooled features "
        f"{100 * pooled.float().mean():.1f}"
    )

    def report(arm: str, tokens: list[torch.Tensor], match: PatchMatch, *, accuracy: bool) -> None:
        lines = []
        for (validation, test), texts, kind in (((0, 1), names, "head"), ((2, 3), descriptions, "unseen")):
            for what, among in ((f"{kind} mIoU", False), ("among the classes shown", True)):
                by, tested = (
                    segmented(tokens[k], match, texts, sets[k].shown if among else None) for k in (validation, test)
                )
                threshold = choose(by, sets[validation].truth, len(texts))
                lines.append(f"{what} {mean_iou(tested, sets[test].truth, threshold, len(texts)):.1f}")
        if accuracy:
            with torch.no_grad():
                right = match(single_tokens, names).argmax(1) == truth
            gain, low, high = interval(pooled.numpy(), right.numpy())
            share = 100 * float(right.float().mean())
            lines.append(f"names of single photographs {share:.1f} ({gain:+.1f}, {low:+.1f} to {high:+.1f})")
        say(f"{arm}: {', '.join(lines)}")

    raw = [encode(wide.patch_tokens, scenes) for scenes in sets]
    report("raw patch tokens", raw, untrained, accuracy=True)
    report("value path", [encode(partial(value_tokens, wide), scenes) for scenes in sets], untrained, accuracy=False)
    for seed in range(given.first, given.first + given.seeds):
        start = time.process_time()
        scenes = draw_scenes(given.scenes, HEAD, seed=seed)
        draw = np.random.default_rng([seed, 22])
        captions = []
        for shown in scenes.shown:
            order = draw.permutation(len(shown))
            captions.append(("a photo of " + " and ".join(concepts()[HEAD[shown[place]]].name for place in order),))
        examples = Examples(partial(torch.index_select, scenes.pixels, 0), captions)
        schedule = replace(FINE_TUNING, steps=given.steps, batch_size=given.batch, rate=given.rate, seed=seed)
        adapted = adapt(wide, examples, Pacl(beta=given.beta), schedule=schedule, manner=Manner(Lock(True, True)))
        match = PatchMatch(*(adapted.match[name] for name in ("projection", "hidden", "output", "beta"))).eval()
        seconds = time.process_time() - start
        losses = f"loss {adapted.losses[0]:.3f} to {np.mean(adapted.losses[-20:]):.3f}"
        report(f"pacl, seed {seed} ({seconds:.0f} s, {losses})", raw, match, accuracy=True)


if __name__ == "__main__":
    main()

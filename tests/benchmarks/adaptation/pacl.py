"""Does PACL make patches say what they show? Scenes of two to four photographs with known masks, in the micro world.

    cd tests/benchmarks && python -m adaptation.pacl [--steps 600] [--seeds 3] [--scenes 4000] [--out FILE]

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
from adaptation.world import BANDS, PIXELS, TEST_SEED, bundled, interval, labelled, name_weights, to_pixels
from torch.nn.functional import grid_sample, interpolate, normalize

from rag_clip.classifiers.segmentation import segment
from rag_clip.demo.captions import describe
from rag_clip.demo.concepts import concepts
from rag_clip.demo.photograph import _pose, photograph
from rag_clip.demo.train import textures
from rag_clip.metrics.segmentation import Overlap, overlap
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
Maps = Callable[[torch.Tensor], torch.Tensor]


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
        where = np.s_[:, quadrant // 2 * PIXELS : (quadrant // 2 + 1) * PIXELS, quadrant % 2 * PIXELS :][1:]
        rows_, columns = where[0], slice(quadrant % 2 * PIXELS, (quadrant % 2 + 1) * PIXELS)
        for first in range(0, count, 1024):
            part = slice(first, first + 1024)
            light = int(draw.integers(2**62))
            pictured = drawn[chosen[part, quadrant]]
            photo = to_pixels(photograph(pictured, seed=light))
            cover = silhouettes(pictured, seed=light)
            there = torch.from_numpy((orders[part] < sizes[part, None])[:, quadrant])
            cell = torch.where(there[:, None, None, None], photo, plain[part, quadrant, :, None, None])
            pixels[part, :, rows_, columns] = cell
            mask = there[:, None, None] & (cover > 0.5)
            truth[part, rows_, columns] = torch.where(mask, chosen[part, quadrant, None, None], len(rows))
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


def score(scenes: Scenes, maps: Maps, threshold: float, classes: int, *, given: bool = False) -> Overlap:
    """Return the overlap of segmented scenes with their truth, background the last class.

    With `given`, only the classes that are in a scene are told apart.
    """
    total: Overlap | None = None
    for part in range(0, len(scenes.pixels), AT_ONCE):
        rows = slice(part, part + AT_ONCE)
        for each, truth, shown in zip(maps(scenes.pixels[rows]), scenes.truth[rows], scenes.shown[rows], strict=True):
            if given:
                absent = torch.ones(classes, dtype=torch.bool)
                absent[shown] = False
                each = each.masked_fill(absent[:, None, None], -1)
            found = segment(each, size=(SIDE, SIDE), threshold=threshold).classes
            counts = overlap(found.where(found >= 0, classes), truth, classes=classes + 1)
            total = counts if total is None else total + counts
    assert total is not None
    return total


def choose(scenes: Scenes, maps: Maps, classes: int) -> float:
    """Return the threshold of the best mIoU on validation scenes."""
    best: list[torch.Tensor] = []
    values: list[torch.Tensor] = []
    for part in range(0, len(scenes.pixels), AT_ONCE):
        for each in maps(scenes.pixels[part : part + AT_ONCE]):
            place = segment(each, size=(SIDE, SIDE))
            best.append(place.classes)
            values.append(place.values)
    found, value = torch.stack(best), torch.stack(values)
    results = [
        overlap(found.where(value >= threshold, classes), scenes.truth, classes=classes + 1).mean_iou
        for threshold in THRESHOLDS
    ]
    return float(THRESHOLDS[int(np.argmax(results))])


def maps_of(tokens: Callable[[torch.Tensor], torch.Tensor], match: PatchMatch, texts: torch.Tensor) -> Maps:
    """Return a function of pixels that returns maps [n, t, 12, 12]."""

    def maps(pixels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            cosines = match.maps(tokens(pixels), texts)  # [n, p, t]
        side = round(cosines.shape[1] ** 0.5)
        return cosines.transpose(1, 2).reshape(len(pixels), -1, side, side)

    return maps


def described(encoder: TwoTowers, rows: np.ndarray) -> torch.Tensor:
    """Return unit weights of concepts by eight descriptions each."""
    draw = np.random.default_rng(12)
    texts = [describe(concepts()[row].design, draw) for row in rows for _ in range(8)]
    return normalize(encoder.encode_text(texts).view(len(rows), 8, -1).mean(1), dim=-1)


def main() -> None:
    """Print a line per arm and seed, and append it to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--tested", type=int, default=300)
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
    validation, test = (draw_scenes(given.tested, HEAD, seed=seed) for seed in (901, 902))
    unnamed, unnamed_validation = (draw_scenes(given.tested, UNSEEN, seed=seed) for seed in (903, 904))
    single, truth = labelled([int(row) for row in HEAD], seed=TEST_SEED, count=4)
    pooled = (bundled().encode_pixels(single).pooled @ names.T).argmax(1) == truth
    untrained = start_match(image_projection(wide.model.visual), beta=given.beta).eval()
    say(
        f"{given.steps} steps, {given.scenes} scenes, rate {given.rate}, beta {given.beta}; "
        f"names of single photographs by pooled features {100 * pooled.float().mean():.1f}"
    )

    def report(arm: str, tokens: Callable[[torch.Tensor], torch.Tensor], match: PatchMatch, *, accuracy: bool) -> None:
        maps, other = maps_of(tokens, match, names), maps_of(tokens, match, descriptions)
        threshold = choose(validation, maps, len(HEAD))
        miou = score(test, maps, threshold, len(HEAD)).mean_iou
        other_threshold = choose(unnamed_validation, other, len(UNSEEN))
        other_miou = score(unnamed, other, other_threshold, len(UNSEEN)).mean_iou
        known = score(test, maps, threshold, len(HEAD), given=True).mean_iou
        line = f"{arm}: mIoU {100 * miou:.1f} (threshold {threshold:.2f}), of the classes shown {100 * known:.1f}"
        line += f", unseen concepts by descriptions {100 * other_miou:.1f}"
        if accuracy:
            with torch.no_grad():
                right = match(bundled().patch_tokens(single), names).argmax(1) == truth
            gain, low, high = interval(pooled.numpy(), right.numpy())
            share = 100 * float(right.float().mean())
            line += f"; names of single photographs {share:.1f} ({gain:+.1f}, {low:+.1f} to {high:+.1f})"
        say(line)

    report("raw patch tokens", wide.patch_tokens, untrained, accuracy=True)
    with torch.no_grad():
        report("value path", partial(value_tokens, wide), untrained, accuracy=False)
    for seed in range(given.seeds):
        start = time.perf_counter()
        scenes = draw_scenes(given.scenes, HEAD, seed=seed)
        draw = np.random.default_rng([seed, 22])
        captions = []
        for shown in scenes.shown:
            order = draw.permutation(len(shown))
            captions.append(("a photo of " + " and ".join(concepts()[HEAD[shown[place]]].name for place in order),))
        examples = Examples(partial(torch.index_select, scenes.pixels, 0), captions)
        schedule = replace(FINE_TUNING, steps=given.steps, batch_size=128, rate=given.rate, seed=seed)
        adapted = adapt(wide, examples, Pacl(beta=given.beta), schedule=schedule, manner=Manner(Lock(True, True)))
        match = PatchMatch(*(adapted.match[name] for name in ("projection", "hidden", "output", "beta"))).eval()
        seconds = time.perf_counter() - start
        losses = f"loss {adapted.losses[0]:.3f} to {np.mean(adapted.losses[-20:]):.3f}"
        report(f"pacl, seed {seed} ({seconds:.0f} s, {losses})", wide.patch_tokens, match, accuracy=True)


if __name__ == "__main__":
    main()

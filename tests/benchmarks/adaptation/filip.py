"""Does late interaction tell descriptions apart that differ in one attribute? Near pairs of the micro world.

    cd tests/benchmarks && python -m adaptation.filip [--steps 250] [--seeds 3] [--pairs 3000] [--out FILE]

The bundled CLIP is adapted with its image tower locked, as Wukong does, by clip, filip, and filip with 12 tokens of 36.
A near pair is a photograph of a design that trained nothing, its description, and the same description of a design
that differs in one attribute. Measured: the share of photographs whose own description scores higher, by the global
vectors or by late interaction from the image's side, as in the published evaluation.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from adaptation.world import bundled, draw_world, embed, interval, to_pixels

from rag_clip.demo.captions import describe
from rag_clip.demo.designs import FAMILIES, sample_design, vary_design
from rag_clip.demo.photograph import photograph
from rag_clip.demo.train import textures
from rag_clip.models.token_match import TokenMatch, late_similarities, text_part, token_match_of
from rag_clip.models.towers import TwoTowers
from rag_clip.training.adapt import FINE_TUNING, Manner, adapt
from rag_clip.training.objective import Objective
from rag_clip.training.objectives.clip import Clip
from rag_clip.training.objectives.filip import Filip
from rag_clip.training.towers import Lock

AT_ONCE = 128
ARMS: dict[str, Objective] = {"clip": Clip(), "filip": Filip(), "filip, 12 tokens": Filip(reduced=12, groups=4)}


def near_pairs(count: int) -> tuple[torch.Tensor, list[str], list[str]]:
    """Return photographs, their descriptions, and those of designs that differ in one attribute."""
    draw = np.random.default_rng(77)
    families = list(FAMILIES)
    designs = [sample_design(families[row % len(families)], draw) for row in range(count)]
    others = [vary_design(design, draw) for design in designs]
    own, varied = (
        [describe(each, np.random.default_rng([78, row])) for row, each in enumerate(group)]
        for group in (designs, others)
    )
    different = [row for row in range(count) if own[row] != varied[row]]
    shown = to_pixels(photograph(textures(designs), seed=2**61 + 7))
    return shown[different], [own[row] for row in different], [varied[row] for row in different]


@torch.no_grad()
def by_global(encoder: TwoTowers, shown: torch.Tensor, texts: list[str]) -> torch.Tensor:
    """Return the cosine of each photograph with its text."""
    return (embed(encoder, shown) * encoder.encode_text(texts)).sum(1)


@torch.no_grad()
def by_tokens(encoder: TwoTowers, match: TokenMatch, shown: torch.Tensor, texts: list[str]) -> torch.Tensor:
    """Return I of each photograph and its text."""
    scores = []
    for start in range(0, len(shown), AT_ONCE):
        patches = match.patches(encoder.patch_tokens(shown[start : start + AT_ONCE]))
        tokens, real = encoder.text_tokens(encoder.tokenizer(texts[start : start + AT_ONCE]))
        scores.append(late_similarities(patches, match.words(tokens), text_part(real))[0].diagonal())
    return torch.cat(scores)


def main() -> None:
    """Print a line per arm and seed, and append it to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--pairs", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--tested", type=int, default=1200)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()

    def say(text: str) -> None:
        print(text, flush=True)
        if given.out:
            with given.out.open("a") as file:
                file.write(f"filip: {text}\n")

    shown, own, varied = near_pairs(given.tested)
    before = (by_global(bundled(), shown, own) > by_global(bundled(), shown, varied)).numpy()
    say(
        f"{given.steps} steps of {given.batch}, {given.pairs} pairs, rate {given.rate}, image locked; "
        f"{len(own)} near pairs, without training {100 * before.mean():.1f}"
    )
    for seed in range(given.first, given.first + given.seeds):
        world = draw_world(given.pairs, seed=seed)
        schedule = replace(FINE_TUNING, steps=given.steps, batch_size=given.batch, rate=given.rate, seed=seed)
        by_clip = before
        for name, objective in ARMS.items():
            start = time.process_time()
            adapted = adapt(bundled(), world.examples, objective, schedule=schedule, manner=Manner(Lock(image=True)))
            seconds = time.process_time() - start
            if adapted.kind:
                match = token_match_of(adapted.match).eval()
                first, second = (by_tokens(adapted.encoder, match, shown, texts) for texts in (own, varied))
            else:
                first, second = (by_global(adapted.encoder, shown, texts) for texts in (own, varied))
            right = (first > second).numpy()
            by_clip = right if name == "clip" else by_clip
            gain, low, high = interval(by_clip, right)
            losses = f"loss {adapted.losses[0]:.3f} to {np.mean(adapted.losses[-20:]):.3f}"
            against = "" if name == "clip" else f" (against clip {gain:+.1f}, {low:+.1f} to {high:+.1f})"
            say(f"seed {seed}, {name}: pairs told apart {100 * right.mean():.1f}{against}; {losses}, {seconds:.0f} s")


if __name__ == "__main__":
    main()

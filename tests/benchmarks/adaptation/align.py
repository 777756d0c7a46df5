"""ALIGN: more pairs although some are wrong, and composed queries.

    cd tests/benchmarks && python -m adaptation.align [--steps 200] [--seeds 3] [--pairs 1000] [--start text]
    cd tests/benchmarks && python -m adaptation.align --composed

Arms of equal steps: A, few clean pairs; B, as many of which three in ten have the caption of another image; C, four
times as many, with the same share of wrong captions. The claim (Jia et al., 2021, arXiv 2102.05918: 51.4 against 48.7):
C is ahead of A. `--composed` asks the bundled model for "this design, but in COLOUR": a photograph of a design, and the
word for one of its colours changed; right are the photographs of that design with this colour changed. Precision among
the ten nearest of n(x + w t), against the photograph and the text alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from adaptation.arms import arguments, run, seeds
from adaptation.world import bundled, draw_world, embed, interval, to_pixels
from torch.nn.functional import normalize

from rag_clip.demo.designs import COLOURS, FAMILIES, Design, sample_design
from rag_clip.demo.photograph import photograph
from rag_clip.demo.train import textures
from rag_clip.training.objectives.align import Align

DESIGNS, COLOURED, SHOTS, NEAREST, SEED = 60, 5, 10, 10, 2**62 + 70_000
WEIGHTS = (0.5, 1.0, 2.0)


def main() -> None:
    """Print the accuracies of the arms, or the precisions of composed queries."""
    parser = arguments(__doc__, start="text", pairs=1000)
    parser.add_argument("--composed", action="store_true")
    options = parser.parse_args()
    if options.composed:
        compose()
        return
    for seed in seeds(options):
        few, wrong = draw_world(options.pairs, seed=seed), draw_world(options.pairs, seed=seed, swapped=0.3)
        many = draw_world(4 * options.pairs, seed=seed, swapped=0.3)
        arms = [
            run(name, Align(), world, options, seed)
            for name, world in (("A, clean", few), ("B, wrong", wrong), ("C, four times, wrong", many))
        ]
        gain, low, high = interval(arms[0].described, arms[2].described)
        print(f"seed {seed}: C over A {gain:+.1f} [{low:+.1f}, {high:+.1f}]", flush=True)


def compose() -> None:
    """Print the precision of composed queries, with its standard error over the queries."""
    draw = np.random.default_rng(5)
    names = list(FAMILIES)
    groups = [coloured(sample_design(names[number % len(names)], draw), draw) for number in range(DESIGNS)]
    variants = [each for group in groups for each in group]
    shown = textures([design for design, _ in variants]).repeat_interleave(SHOTS, 0)
    images = embed(bundled(), to_pixels(photograph(shown, seed=SEED)))  # [variants * shots, d]
    own = torch.arange(len(variants)).repeat_interleave(SHOTS)
    words = bundled().encode_text([colour for _, colour in variants])
    found: dict[str, list[float]] = {}
    for target, (first, number) in enumerate((first, k) for first in range(DESIGNS) for k in range(COLOURED)):
        if not number:
            continue
        place = first * COLOURED * SHOTS  # a photograph of the design itself, which is not ranked
        query, text = images[place : place + 1], words[target : target + 1]
        composed = {f"n(x + {weight:g} t)": query + weight * text for weight in WEIGHTS}
        for name, vector in {"x alone": query, "t alone": text, **composed}.items():
            scores = (images @ normalize(vector, dim=1).T)[:, 0]
            scores[place] = -torch.inf
            found.setdefault(name, []).append(float((own[scores.topk(NEAREST).indices] == target).float().mean()))
    print(f"{len(images)} photographs of {len(variants)} designs, {len(found['x alone'])} queries")
    for name, values in found.items():
        error = np.std(values, ddof=1) / len(values) ** 0.5
        print(f"{name:12} precision@{NEAREST} {100 * np.mean(values):.1f} -/+ {100 * error:.1f}")


def coloured(design: Design, draw: np.random.Generator) -> list[tuple[Design, str]]:
    """Return the design and variants of it in one colour, which the design has nowhere else, with that colour."""
    family = FAMILIES[design.family]
    places = [place for place, values in enumerate(family.attributes.values()) if values == tuple(COLOURS)]
    place = int(draw.choice(places))
    free = [colour for colour in COLOURS if colour not in design.values]
    chosen = draw.choice(free, size=COLOURED - 1, replace=False)
    variants = [(design, design.values[place])]
    for colour in map(str, chosen):
        values = (*design.values[:place], colour, *design.values[place + 1 :])
        variants.append((replace(design, values=values), colour))
    return variants


if __name__ == "__main__":
    main()

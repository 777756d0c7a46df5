"""What recipes are worth to an encoder that knows the names, and to one that does not.

    python tests/benchmarks/known_names.py ENCODER.py CAPTIONS ... [--coined SHARE] [--recipes NAME ...]

ENCODER.py has `RealEncoder` (an Encoder of texts), `SETS`, `photographs(name)` (class names, unit image features
[n, d], targets [n], and how often each name stood in training) and `coined(names)` (an invented name for each). The
captions are indexed once, in known-names-index of the working directory. With `--coined`, that share of the classes has
its invented name, and the true one as its synonym. A recipe is `ensemble`, a name, or FILE.toml:NAME. Prints top-1 in
percent, with the 95 % interval over images of the difference from the first recipe, and the share K of known names that
the captions tell (`rag_clip/prompts/known.py`).
"""

from __future__ import annotations

import argparse
import random
import runpy
from pathlib import Path

import torch

from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import Features, LabelSet
from rag_clip.pipelines.captions import build_index
from rag_clip.prompts.enhance import enhance
from rag_clip.prompts.recipe import Recipe, Templates, load_recipe
from rag_clip.store import open_store

INDEX = "known-names-index"
RESAMPLES = 1000
ENSEMBLE = Recipe("ensemble", templates=Templates(set="general"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("captions", nargs="+")
    parser.add_argument("--coined", type=float, default=0.0, metavar="SHARE")
    parser.add_argument("--recipes", nargs="+", default=["ensemble", "default"])
    options = parser.parse_args()
    bench = runpy.run_path(str(options.encoder))
    encoder = bench["RealEncoder"]()
    build_index(options.captions, index=INDEX, encoder=encoder)
    recipes = [ENSEMBLE if name == "ensemble" else load_recipe(name) for name in options.recipes]
    with open_store(INDEX) as store:
        for name in bench["SETS"]:
            names, features, targets, _ = bench["photographs"](name)
            labels = mixed(names, bench["coined"](names), options.coined)
            first: torch.Tensor | None = None
            for recipe in recipes:
                prompts = enhance(labels, encoder=encoder, recipe=recipe, store=store)
                right = (zero_shot(prompts, encoder)(Features(features)).argmax(1) == targets).float()
                first = right if first is None else first
                known = prompts.provenance.get("known", {}).get("share", "")
                print(
                    f"{name:14} {recipe.name:10} {100 * right.mean():5.1f}  {interval(right - first)}  {known}",
                    flush=True,
                )


def mixed(names: list[str], coined: list[str], share: float) -> LabelSet:
    """Return the label set in which that share of the classes, drawn by chance, has its invented name."""
    drawn = set(random.Random(1).sample(range(len(names)), round(share * len(names))))
    return LabelSet(
        tuple(coined[row] if row in drawn else name for row, name in enumerate(names)),
        synonyms=tuple((name,) if row in drawn else () for row, name in enumerate(names)),
    )


def interval(gains: torch.Tensor) -> str:
    """Return the mean of gains [n] and its 95 % bootstrap interval, in points."""
    generator = torch.Generator().manual_seed(0)
    means = torch.stack(
        [gains[torch.randint(len(gains), (len(gains),), generator=generator)].mean() for _ in range(RESAMPLES)]
    )
    low, high = (100 * means.quantile(q) for q in (0.025, 0.975))
    return f"{100 * gains.mean():+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    main()

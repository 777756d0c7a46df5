"""What recipes are worth to an encoder that knows the names, and to one that does not.

    python tests/benchmarks/known_names.py ENCODER.py CAPTIONS ... [--coined SHARE] [--recipes NAME ...]

ENCODER.py has `RealEncoder` (an Encoder of texts), `SETS`, `photographs(name)` (class names, unit image features
[n, d], targets [n], and how often each name stood in training) and `coined(names)` (an invented name for each). The
captions are indexed once, in known-names-index of the working directory. With `--coined`, that share of the classes has
its invented name, and the true one as its synonym, by which captions are found; the encoder reads the invented one in
its place. A recipe is `ensemble`, a name, or FILE.toml:NAME; with `images` the photographs, without labels, choose
among the ways of the default and the ensemble. Prints top-1 in percent, with the 95 % interval over images of the
difference from the first recipe, and the share K of known names that the captions tell (`rag_clip/prompts/known.py`).
"""

from __future__ import annotations

import argparse
import random
import re
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rag_clip.classifiers.zero_shot import zero_shot, zero_shots
from rag_clip.data import Features, LabelSet, Prompts
from rag_clip.pipelines.captions import build_index
from rag_clip.prompts.enhance import enhance, enhance_rivals
from rag_clip.prompts.recipe import Recipe, Templates, load_recipe
from rag_clip.protocols import Encoder
from rag_clip.refinement.choose_prompts import choose_prompts, images_to_choose
from rag_clip.refinement.sampling import sample_images
from rag_clip.store import Store, open_store

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
    with open_store(INDEX) as store:
        for name in bench["SETS"]:
            names, features, targets, _ = bench["photographs"](name)
            labels = mixed(names, bench["coined"](names), options.coined)
            reading = Blind(encoder, labels)
            first: torch.Tensor | None = None
            for recipe in options.recipes:
                prompts, weights = texts(recipe, labels, reading, store, Features(features))
                right = ((features @ weights.T).argmax(1) == targets).float()
                first = right if first is None else first
                known = prompts.provenance.get("known", {}).get("share", "")
                print(
                    f"{name:14} {options.coined:4} {Path(recipe).name:14} {100 * right.mean():5.1f}  "
                    f"{interval(right - first)}  {known}",
                    flush=True,
                )


class Blind:
    """An encoder that reads the invented names in the place of the true ones, and is the given one otherwise."""

    def __init__(self, encoder: Encoder, labels: LabelSet) -> None:
        self._encoder = encoder
        self._known: dict[str, torch.Tensor] = {}
        self._names = [
            (re.compile(rf"\b{re.escape(true).replace('_', '[ _]')}(s|es)?\b", re.IGNORECASE), name)
            for name, synonyms in zip(labels.names, labels.synonyms, strict=True)
            for true in synonyms
        ]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Embed texts as the encoder does, each once."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= dict(zip(new, self._encoder.encode_text([self._read(text) for text in new]), strict=True))
        return torch.stack([self._known[text] for text in texts])

    def _read(self, text: str) -> str:
        for true, name in self._names:
            text = true.sub(name, text)
        return text


def texts(
    recipe: str, labels: LabelSet, encoder: Encoder, store: Store, images: Features
) -> tuple[Prompts, torch.Tensor]:
    """Return prompts and class weights [c, d] of a recipe, or of the choice that images make."""
    if recipe != "images":
        chosen = ENSEMBLE if recipe == "ensemble" else load_recipe(recipe)
        prompts = enhance(labels, encoder=encoder, recipe=chosen, store=store)
        return prompts, zero_shot(prompts, encoder).weights
    candidates = enhance_rivals(labels, encoder=encoder, recipe=load_recipe("default"), store=store)
    sample = sample_images([images], images_to_choose(len(labels)))
    assert sample is not None
    found = choose_prompts(candidates, zero_shots(list(candidates.values()), encoder), sample.pooled)
    return found.prompts, found.classifier.weights


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

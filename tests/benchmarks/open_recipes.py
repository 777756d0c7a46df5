"""Openness of recipes: accuracy on photographs as the vocabulary grows by names that no photograph shows.

    python tests/benchmarks/open_recipes.py ENCODER.py CAPTIONS ... [--names 1000] [--recipes NAME ...]

ENCODER.py and the captions are those of known_names.py, and so is the index, in known-names-index of the working
directory; a recipe is `ensemble`, a name, or FILE.toml:NAME, and the first is what the others are compared with. The
further names are the nouns that the captions say most often: words between an article and a function word or the end,
that are no word of a class name. The recipe makes their texts too. Classes are divided into groups of at most ten at
random and further names into groups of fifty. In percent, macro averages: accuracy with all classes and no further
name; Acc-C (within a group); Acc-E and Acc-S over all orders of the groups (`rag_clip/metrics/openness.py`), each
without further names and with them; accuracy with all classes and all further names; and the differences of Acc-E and
Acc-S, with further names, from the first recipe, with 95 % intervals over images.
"""

from __future__ import annotations

import argparse
import re
import runpy
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from known_names import ENSEMBLE, INDEX

from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.corpus.phrases import FUNCTION_WORDS
from rag_clip.data import LabelSet
from rag_clip.metrics.openness import Openness, openness
from rag_clip.metrics.uncertainty import bootstrap
from rag_clip.pipelines.captions import build_index
from rag_clip.prompts.enhance import enhance
from rag_clip.prompts.recipe import load_recipe
from rag_clip.protocols import Encoder
from rag_clip.store import Store, open_store
from rag_clip.words import words_of

CLASSES_IN_A_GROUP, NAMES_IN_A_GROUP = 10, 50
DRAWS = 500
_NOUN = re.compile(rf"\b(?:an?|the) ([a-z]{{3,}})(?= (?:{FUNCTION_WORDS})\b|[.,!]|\s*$)")


def main() -> None:
    """Print a row for each set and recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("captions", nargs="+")
    parser.add_argument("--names", type=int, default=1000)
    parser.add_argument("--recipes", nargs="+", default=["templates", "repe", "ensemble", "default"])
    parser.add_argument("--sets", nargs="+")
    options = parser.parse_args()
    bench = runpy.run_path(str(options.encoder))
    encoder = bench["RealEncoder"]()
    build_index(options.captions, index=INDEX, encoder=encoder)
    with open_store(INDEX) as store:
        reading = Recalling(encoder, store)
        for name in options.sets or bench["SETS"]:
            classes, features, targets, _ = bench["photographs"](name)
            further = nouns(reading.texts, options.names, classes)
            groups = torch.cat([grouped(len(classes), CLASSES_IN_A_GROUP), grouped(len(further), NAMES_IN_A_GROUP)])
            groups[len(classes) :] += int(groups[: len(classes)].max()) + 1
            first: list[Openness] = []
            for recipe in options.recipes:
                chosen = ENSEMBLE if recipe == "ensemble" else load_recipe(recipe)
                labels = LabelSet((*classes, *further))
                prompts = enhance(labels, encoder=reading, recipe=chosen, store=store)
                logits = features @ zero_shot(prompts, reading).weights.T  # [n, c]
                own = logits[:, : len(classes)]
                found = [openness(own, targets, groups[: len(classes)]), openness(logits, targets, groups)]
                first = first or found
                print(
                    f"{name:14} {Path(recipe).name:20} {macro(own, targets):5.1f}  {cells(found)}  "
                    f"{macro(logits, targets):5.1f}  {differences(found[1], first[1], targets)}",
                    flush=True,
                )


class Recalling:
    """An encoder that takes the vectors of captions of the index from there, and remembers the others."""

    def __init__(self, encoder: Encoder, store: Store) -> None:
        postings = store.postings()
        assert postings is not None
        rows = np.arange(postings.count)
        self._encoder = encoder
        self.texts = [text for _, text, _ in postings.captions(rows)]
        self._known = dict(zip(self.texts, torch.from_numpy(postings.vectors(rows)), strict=True))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Embed texts as the encoder does, each once."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= dict(zip(new, self._encoder.encode_text(new), strict=True))
        return torch.stack([self._known[text] for text in texts])


def nouns(captions: Iterable[str], most: int, classes: Sequence[str]) -> list[str]:
    """Return the nouns that captions say most often, without the words of class names and their plurals."""
    words = {form for name in classes for word in words_of(name) for form in (word, f"{word}s", word.removesuffix("s"))}
    counts = Counter(noun for text in captions for noun in _NOUN.findall(text.lower()) if noun not in words)
    return sorted(counts, key=lambda noun: (-counts[noun], noun))[:most]


def grouped(count: int, size: int) -> torch.Tensor:
    """Divide `count` names into as equal groups as can be of at most `size`, at random; the group of each, [count]."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    number = max(2, -(-count // size))
    return torch.empty(count, dtype=torch.int64).index_put_((order,), torch.arange(count) % number)


def macro(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the mean accuracy per class in percent."""
    right = (logits.argmax(1) == targets).double()
    shares = torch.bincount(targets, weights=right) / torch.bincount(targets)
    return 100 * float(shares.nanmean())


def cells(found: Sequence[Openness]) -> str:
    """Name Acc-C, and Acc-E and Acc-S without further names and with them."""
    alone, all_names = found
    pairs = [(alone.acc_e, all_names.acc_e), (alone.acc_s, all_names.acc_s)]
    return f"{100 * alone.acc_c:5.1f}  " + "  ".join(f"{100 * a:5.1f} {100 * b:5.1f}" for a, b in pairs)


def differences(found: Openness, first: Openness, targets: torch.Tensor) -> str:
    """Return how far Acc-E and Acc-S are above those of the first recipe, with 95 % intervals over images."""
    others = found.count - 1
    gains = []
    for measured, sign in ((found, 1), (first, -1)):
        extended = measured.closed.double() / (measured.thieves + 1)
        steady = extended * (others - measured.thieves) / others
        gains.append(sign * torch.stack([extended, steady], dim=1))  # [n, 2]
    gain = gains[0] + gains[1]
    weights = found.weights  # equal in both: those of the images

    def measure(rows: torch.Tensor) -> list[float]:
        return [float(value) for value in weights[rows] @ gain[rows] / weights[rows].sum()]

    parts = bootstrap(measure, len(targets), strata=targets, draws=DRAWS)
    return "  ".join(f"{100 * part.value:+.1f} ({100 * part.low:+.1f} to {100 * part.high:+.1f})" for part in parts)


if __name__ == "__main__":
    main()

"""IDEA on captions that lack half of their attributes: do tags that images show help?

    cd tests/benchmarks && python -m adaptation.idea [--steps 300] [--seeds 3] [--pairs 4000] [--start text]

Tags are the sixty words that descriptions of the micro world say most often; each is dropped from each caption with
probability 1/2. Arms: clip and idea. It prints the mean average precision of the tags on photographs that trained
nothing, where a tag is true if one of sixteen descriptions of the design says it, the tags recognised per training
image beyond those of its caption, and how many of them the whole caption says. The claim is +2 points of description
accuracy. The threshold is 0.3: as captions say half of the true tags, none is ever more than half probable, and none
would pass the paper's 0.6.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache

import numpy as np
import polars as pl
import torch
from adaptation.arms import arguments, run, seeds, show
from adaptation.world import TEST_SEED, draw_world, labelled
from torch import nn

from rag_clip.corpus.counts.tokens import spoken
from rag_clip.corpus.phrases import frequent_phrases
from rag_clip.demo.captions import describe
from rag_clip.demo.concepts import concepts
from rag_clip.training.objective import Setting
from rag_clip.training.objectives.clip import Clip
from rag_clip.training.objectives.idea import Idea, IdeaLoss, tags_in
from rag_clip.training.towers import Towers

TAGS, DESCRIPTIONS = 60, 16
LOSSES: list[IdeaLoss] = []


@dataclass(frozen=True, slots=True)
class Watched(Idea):
    """IDEA whose loss is kept for the measures after training."""

    def build(self, towers: Towers, setting: Setting) -> nn.Module:
        """Return the loss."""
        LOSSES.append(IdeaLoss(towers, self, setting))
        return LOSSES[-1]


def main() -> None:
    """Run the arms for each seed."""
    parser = arguments(__doc__, start="text")
    parser.add_argument("--threshold", type=float, default=0.3)
    options = parser.parse_args()
    for seed in seeds(options):
        world, whole = draw_world(options.pairs, seed=seed, edit=poorer), draw_world(options.pairs, seed=seed)
        clip = run("clip", Clip(), world, options, seed)
        idea = run("idea", Watched(tags=tags(), threshold=options.threshold), world, options, seed)
        loss = LOSSES[-1]
        said = loss.said(torch.arange(options.pairs))
        new = loss.found & ~said
        there = tags_in([text for (text,) in whole.examples.captions], loss.tags)
        print(
            f"seed {seed}: idea over clip {show(clip, idea)}; tag mAP {100 * precision(loss):.1f}; new tags per image "
            f"{float(new.sum(1).float().mean()):.2f}, of which the whole caption says "
            f"{100 * float((new & there).sum() / new.sum().clamp(min=1)):.0f} %",
            flush=True,
        )


@cache
def described() -> tuple[tuple[str, ...], ...]:
    """Return sixteen descriptions of each concept."""
    draw = np.random.default_rng(31)
    return tuple(tuple(describe(each.design, draw) for _ in range(DESCRIPTIONS)) for each in concepts())


@cache
def tags() -> tuple[str, ...]:
    """Return the words that descriptions say most often."""
    texts = pl.Series([text for texts in described() for text in texts])
    return tuple(phrase for phrase in frequent_phrases([texts], most=400) if " " not in phrase)[:TAGS]


def poorer(caption: str) -> str:
    """Drop each tag from a caption with probability 1/2; equal captions lose equal words."""
    draw = np.random.default_rng(zlib.crc32(caption.encode()))
    kept = [word for word in caption.split() if not set(spoken(word)) & set(tags()) or draw.random() < 0.5]
    return " ".join(kept) or caption


@torch.no_grad()
def precision(loss: IdeaLoss) -> float:
    """Return the mean average precision of the tags on one photograph of each concept."""
    pixels, _ = labelled(range(len(concepts())), seed=TEST_SEED, count=1)
    scores = loss.recogniser(loss.towers.encoder.patch_tokens(pixels)).numpy()  # [360, g]
    true = np.stack([tags_in(texts, loss.tags).any(0).numpy() for texts in described()])  # [360, g]
    found = []
    for column in np.flatnonzero(true.any(0)):
        right = true[np.argsort(-scores[:, column]), column]
        found.append((np.cumsum(right) / np.arange(1, len(right) + 1))[right].mean())
    return float(np.mean(found))


if __name__ == "__main__":
    main()

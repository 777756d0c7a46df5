"""NLIP on pairs of which four in ten have the caption of another image: does harmonisation close half of the gap?

    cd tests/benchmarks && python -m adaptation.nlip [--steps 300] [--seeds 3] [--pairs 4000] [--start text]

Arms: clip, nlip, and nlip with the truth for the probability of noise. For each seed it prints the description
accuracy of each arm, the AUROC of the probability, its mean over wrong and over right pairs, and the share of the gap
between clip and the truth that nlip closes. With `--completion` captions are also cut to the first half of their words,
and the arms are clip, and nlip with and without completion; it prints which share of the words of the right captions,
beyond those of the given ones, the written captions say.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from adaptation.arms import arguments, run, seeds, show
from adaptation.world import draw_world
from torch import nn

from rag_clip.corpus.counts.tokens import spoken
from rag_clip.training.objective import Setting
from rag_clip.training.objectives.clip import Clip
from rag_clip.training.objectives.nlip import Nlip, NlipLoss, write_captions
from rag_clip.training.towers import Towers

LOSSES: list[NlipLoss] = []  # of the arms run last, to look into


@dataclass(frozen=True, slots=True)
class Watched(Nlip):
    """NLIP whose loss is kept for the measures after training."""

    def build(self, towers: Towers, setting: Setting) -> nn.Module:
        """Return the loss."""
        LOSSES.append(NlipLoss(towers, self, setting))
        return LOSSES[-1]


@dataclass(frozen=True, slots=True)
class Known(Nlip):
    """NLIP that is told which captions are wrong."""

    wrong: torch.Tensor | None = None

    def build(self, towers: Towers, setting: Setting) -> nn.Module:
        """Return the loss."""
        return KnownLoss(towers, self, setting)


class KnownLoss(NlipLoss):
    """The loss with the truth for the probability of noise."""

    def begin_epoch(self, epoch: int, rows: torch.Tensor) -> None:
        """Put the truth in place."""
        settings: Any = self.settings
        self.noise.copy_(settings.wrong.float())


def main() -> None:
    """Run the arms for each seed."""
    parser = arguments(__doc__, start="text")
    parser.add_argument("--completion", action="store_true")
    options = parser.parse_args()
    for seed in seeds(options):
        (complete if options.completion else harmonise)(options, seed)


def harmonise(options: argparse.Namespace, seed: int) -> None:
    """Run clip, nlip and nlip with the truth on swapped captions."""
    world = draw_world(options.pairs, seed=seed, swapped=0.4)
    clip = run("clip", Clip(), world, options, seed)
    nlip = run("nlip", Watched(), world, options, seed)
    noise = LOSSES[-1].noise.numpy()
    known = run("nlip, truth", Known(wrong=world.wrong), world, options, seed)
    wrong = world.wrong.numpy()
    gap = known.description - clip.description
    print(
        f"seed {seed}: AUROC {auroc(noise, wrong):.3f}, noise of wrong {noise[wrong].mean():.2f}, of right "
        f"{noise[~wrong].mean():.2f}; nlip over clip {show(clip, nlip)}, truth over clip {show(clip, known)}, "
        f"share of the gap {(nlip.description - clip.description) / gap if gap else float('nan'):.2f}",
        flush=True,
    )


def complete(options: argparse.Namespace, seed: int) -> None:
    """Run clip, and nlip with and without completion, on captions without the second half of their words."""
    whole = draw_world(options.pairs, seed=seed)
    world = draw_world(options.pairs, seed=seed, swapped=0.4, edit=half)
    clip = run("clip", Clip(), world, options, seed)
    without = run("nlip", Nlip(), world, options, seed)
    with_it = run("nlip, completed", Watched(completion=1.0), world, options, seed)
    table = write_captions(LOSSES[-1], torch.arange(min(1000, options.pairs)))
    shares = [
        len(missing & set(spoken(row["caption"]))) / len(missing)
        for row in table.to_pylist()
        if (missing := set(spoken(whole.examples.captions[row["row"]][0])) - set(spoken(row["original"])))
    ]
    print(
        f"seed {seed}: nlip over clip {show(clip, without)}, completed over clip {show(clip, with_it)}, completed over "
        f"nlip {show(without, with_it)}; of the words of the right caption that the given one lacks, the written ones "
        f"have {100 * np.mean(shares):.1f} %",
        flush=True,
    )


def half(caption: str) -> str:
    """Return the first half of the words of a caption, at least one."""
    words = caption.split()
    return " ".join(words[: max(1, len(words) // 2)])


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the probability that a positive has the higher score, ties counted half."""
    values, places = np.unique(scores, return_inverse=True)
    counts = np.bincount(places, minlength=len(values))
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    high = positive.sum()
    return float((ranks[positive].sum() - high * (high + 1) / 2) / (high * (len(scores) - high)))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()

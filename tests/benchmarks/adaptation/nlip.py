"""NLIP on pairs of which four in ten have the caption of another image: does harmonisation close half of the gap?

    cd tests/benchmarks && python -m adaptation.nlip [--steps 300] [--seeds 3] [--pairs 4000] [--start text]

Arms: clip, nlip, and nlip with the truth for the probability of noise. `--start` says what is trained: the bundled
model further, a fresh text tower on the locked image tower, or both towers from scratch. For each seed it prints the
description accuracy of each arm, the AUROC of the probability, its mean over wrong and over right pairs, and the share
of the gap between clip and the truth that nlip closes. With `--completion` captions are cut to their first half of
words instead, and the arms are clip, and nlip with and without completion; it prints which share of the words left out
the written captions say.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from adaptation.world import Measures, World, bundled, draw_world, from_scratch, interval, measure
from torch import nn

from rag_clip.corpus.counts.tokens import spoken
from rag_clip.models.open_clip import fresh
from rag_clip.training.adapt import FINE_TUNING, Manner, adapt
from rag_clip.training.objective import Objective, Setting
from rag_clip.training.objectives.clip import Clip
from rag_clip.training.objectives.nlip import Nlip, NlipLoss, write_captions
from rag_clip.training.towers import Lock, Towers

RATES = {"bundled": 3e-4, "text": 2e-3, "both": 2e-3}
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--start", choices=sorted(RATES), default="both")
    parser.add_argument("--completion", action="store_true")
    options = parser.parse_args()
    for seed in range(options.seeds):
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


def run(name: str, objective: Objective, world: World, options: argparse.Namespace, seed: int) -> Measures:
    """Train one arm and print what it measures."""
    if options.start == "bundled":
        start = bundled()
    else:
        start = fresh(bundled(), towers="text", seed=seed) if options.start == "text" else from_scratch(seed)
    schedule = replace(
        FINE_TUNING,
        rate=RATES[options.start],
        steps=options.steps,
        batch_size=options.batch,
        seed=seed,
        warm_up=max(5, options.steps // 20),
    )
    manner = Manner(Lock(image=options.start == "text"))
    measured = measure(adapt(start, world.examples, objective, manner=manner, schedule=schedule).encoder)
    print(f"seed {seed} {name:<16} {measured}", flush=True)
    return measured


def show(first: Measures, second: Measures) -> str:
    """Write the difference in description accuracy with its paired interval over photographs."""
    mean, low, high = interval(first.described, second.described)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


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

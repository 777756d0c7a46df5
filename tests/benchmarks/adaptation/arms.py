"""The options and the training that the experiments of objectives share: arms of equal seed, data order and steps."""

from __future__ import annotations

import argparse
from dataclasses import replace

from adaptation.world import Measures, World, bundled, from_scratch, interval, measure

from rag_clip.models.open_clip import fresh
from rag_clip.models.towers import TwoTowers
from rag_clip.training.adapt import FINE_TUNING, Manner, adapt
from rag_clip.training.objective import Objective
from rag_clip.training.towers import Lock

RATES = {"bundled": 3e-4, "text": 2e-3, "both": 2e-3}


def arguments(description: str | None, *, start: str, pairs: int = 4000) -> argparse.ArgumentParser:
    """Return a parser of the options of an experiment.

    `--start` says what is trained: the bundled model further, a fresh text tower on the locked image tower, or both
    towers from scratch.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--pairs", type=int, default=pairs)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--start", choices=sorted(RATES), default=start)
    return parser


def seeds(options: argparse.Namespace) -> range:
    """Return the seeds of an experiment."""
    return range(options.first, options.first + options.seeds)


def train(objective: Objective, world: World, options: argparse.Namespace, seed: int) -> TwoTowers:
    """Train one arm."""
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
    return adapt(start, world.examples, objective, manner=manner, schedule=schedule).encoder


def run(name: str, objective: Objective, world: World, options: argparse.Namespace, seed: int) -> Measures:
    """Train one arm, and print and return what it measures."""
    measured = measure(train(objective, world, options, seed))
    print(f"seed {seed} {name:<20} {measured}", flush=True)
    return measured


def show(first: Measures, second: Measures) -> str:
    """Write the difference in description accuracy with its paired interval over photographs."""
    mean, low, high = interval(first.described, second.described)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"

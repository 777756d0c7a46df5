"""Seconds of openness in closed form and by sampling, on logits of generated images.

    python tests/benchmarks/openness.py [--images 50000] [--classes 1000] [--groups 20] [--trials 3] [--timed 1]
        [--candidates 0]

Masking is the plain way: for each of groups x trials random orders and each step, argmax over the columns known so far;
`--timed` of these orders are run and the rest reckoned from them (`--timed 60` runs all). `sampled_openness` answers
for as many orders, `openness` for every order there is. Ratios are of processor time, which other work on the machine
hardly changes; wall seconds stand beside it. `--candidates` adds an adversarial vocabulary of so many names around the
classes, for features of width 512.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from timing import least
from torch.nn.functional import normalize

from rag_clip.metrics.curves import class_curve, group_curve
from rag_clip.metrics.openness import openness
from rag_clip.metrics.sampling import sampled_openness
from rag_clip.metrics.vocabulary import adversarial_names

WIDTH = 512


def main() -> None:
    """Print seconds, accuracies and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"images": 50_000, "classes": 1000, "groups": 20, "trials": 3, "timed": 1, "rounds": 3, "candidates": 0}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    features, targets, classes = generate(given.images, given.classes)
    logits, groups = features @ classes.T, torch.arange(given.classes) % given.groups
    print(f"{given.images:,} images x {given.classes:,} classes, {os.cpu_count()} cores, torch {torch.__version__}")
    found, closed = timed("closed form", lambda: openness(logits, targets, groups), rounds=given.rounds)
    print(f"    {percent(found.acc_c, found.acc_e, found.acc_s)}: every order")
    timed("group curve", lambda: group_curve(logits, targets, groups), rounds=given.rounds)
    timed("class curve", lambda: class_curve(logits, targets), rounds=given.rounds)
    orders = given.groups * given.trials
    sampled, seconds = timed("sampled", lambda: sampled_openness(logits, targets, groups, trials=given.trials))
    print(f"    {percent(sampled.acc_c, sampled.acc_e, sampled.acc_s)}: {orders} orders,", end=" ")
    print(f"standard errors {100 * sampled.error_e:.3f} and {100 * sampled.error_s:.3f}; closed / sampled", end=" ")
    print(f"1/{seconds / closed:.0f}")
    count = min(given.timed, orders)
    accuracy, seconds = timed(f"masking {count}", lambda: by_masking(logits, targets, groups, count))
    ratio = seconds * orders / count / closed
    print(
        f"    Acc-E {100 * accuracy:.2f}: {count} of {orders} orders run; closed / masking all {orders}: 1/{ratio:.0f}"
    )
    if given.candidates:
        near = classes[torch.randint(len(classes), (given.candidates,))]
        names = normalize(near + 0.04 * torch.randn(given.candidates, WIDTH), dim=-1)
        worst, _ = timed("adversarial", lambda: adversarial_names(features, targets, classes, names))
        left = [worst.accuracy, float(worst.single_accuracy[0]), float(worst.set_accuracy[-1]), worst.certified]
        print(
            "    accuracy {:.2f}, less the worst name {:.2f}, ten {:.2f}, all {:.2f}".format(*(100 * x for x in left))
        )


def generate(images: int, classes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return features [n, d] near their class, targets, and class weights [c, d] of which some lie near others."""
    torch.manual_seed(0)
    directions = normalize(torch.randn(classes, WIDTH) + 0.15 * torch.randn(WIDTH // 4, WIDTH).sum(0), dim=-1)
    targets = torch.arange(images) % classes
    return normalize(directions[targets] + 0.15 * torch.randn(images, WIDTH), dim=-1), targets, directions


def by_masking(logits: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor, count: int) -> float:
    """Return Acc-E over `count` random orders, classifying again at every step among the columns known."""
    draw, of_image, total = np.random.default_rng(0), groups[targets], int(groups.max()) + 1
    steps = []
    for _ in range(count):
        order = torch.from_numpy(draw.permutation(total))
        for step in range(1, total + 1):
            columns = torch.isin(groups, order[:step]).nonzero().flatten()
            known = torch.isin(of_image, order[:step])
            right = columns[logits[:, columns].argmax(1)] == targets
            steps.append(float(right[known].double().mean()))
    return statistics.fmean(steps)


def timed(name: str, run: Callable[[], Any], *, rounds: int = 1) -> tuple[Any, float]:
    """Return what `run` returns and its processor seconds, the least over rounds; print them."""
    found, spent = least(run, rounds)
    print(f"{name:12} {spent.processor:7.2f} s of processor time, {spent.wall:7.2f} s", flush=True)
    return found, spent.processor


def percent(*values: float) -> str:
    """Name the three accuracies in percent."""
    return ", ".join(
        f"{name} {100 * value:.2f}" for name, value in zip(("Acc-C", "Acc-E", "Acc-S"), values, strict=True)
    )


if __name__ == "__main__":
    main()

"""PAINT on the micro world: a task that fails is patched, and what the encoder knew is kept.

    PYTHONPATH=tests/benchmarks python -m adaptation.paint [--patch conditions|names] [--steps N] [--seeds N] [--all N]

With `conditions`, head names fail in dark photographs, and then before stripes; with `names`, 40 names fail that were
never shown nor named, whose text vectors are what the text tower makes of their letters, and then 40 of other groups.
Supported are the 120 head names and descriptions without names, in ordinary photographs: of all designs, or of the
groups without patched names. The image tower is fine-tuned against frozen text vectors. Each alpha of the sweep is
measured on validation photographs, half the weight on the supported tasks; what is printed is of test photographs, in
percent. The first `--all` seeds also patch the second task: in sequence, in parallel, and jointly.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from time import perf_counter

import numpy as np
import torch
from adaptation.carft import NEW, shots
from adaptation.world import (
    BANDS,
    PIXELS,
    bundled,
    description_weights,
    embed,
    name_head,
    name_weights,
)

from rag_clip.demo.concepts import concepts
from rag_clip.models.towers import TwoTowers
from rag_clip.training.adapt import FINE_TUNING, Manner, adapt
from rag_clip.training.batches import Examples
from rag_clip.training.objectives.labels import Labels
from rag_clip.training.towers import Lock
from rag_clip.training.weights import add_differences, with_weights

ALPHAS = [round(0.05 * step, 2) for step in range(21)]
SHOTS, VALIDATED, TESTED = 16, 1, 2  # photographs per concept
TRAINING_SEED, VALIDATION_SEED, TEST_SEED = 2**62 + 70_000, 2**62 + 80_000, 2**62 + 90_000
GROUPS = list(dict.fromkeys(concept.group for concept in concepts()))
SCHEDULE = replace(FINE_TUNING, rate=3e-4, batch_size=64, warm_up=10)
PATCHES = ("first", "second")


@dataclass(frozen=True, slots=True)
class Task:
    """A task of some concepts: their rows, the unit weights [c, d] of their texts, and what photographs look like."""

    rows: tuple[int, ...]
    weights: torch.Tensor
    context: str = ""


Tasks = dict[str, Task]


def make_tasks(patch: str) -> Tasks:
    """Return the tasks: the first and the second are patched, the others are supported."""
    named, described = name_weights(bundled()), description_weights(bundled())

    def task(rows: Sequence[int], weights: torch.Tensor, context: str = "") -> Task:
        return Task(tuple(rows), weights[list(rows)], context)

    def unseen(groups: Sequence[str]) -> list[int]:
        return [row for row, one in enumerate(concepts()) if one.band == "unseen" and one.group in groups]

    head = np.flatnonzero(BANDS == "head").tolist()
    if patch == "conditions":
        first, second, kept = task(head, named, "dark"), task(head, named, NEW), list(range(len(concepts())))
    else:
        first, second = task(unseen(GROUPS[:4]), named), task(unseen(GROUPS[4:8]), named)
        kept = [row for row, one in enumerate(concepts()) if one.group in GROUPS[8:]]
    return {"first": first, "second": second, "head names": task(head, named), "descriptions": task(kept, described)}


@cache
def photographs(context: str, seed: int, count: int) -> torch.Tensor:
    """Return `count` photographs of every concept in a context, of one concept after another in each round."""
    return shots(context, seed=seed, count=count)[0]


def accuracies(encoder: TwoTowers, tasks: Tasks, seed: int, count: int) -> dict[str, float]:
    """Return the accuracy of each task in percent, on photographs of a seed, `count` per concept."""
    found: dict[str, float] = {}
    features: dict[str, torch.Tensor] = {}
    for name, task in tasks.items():
        if task.context not in features:
            pixels = photographs(task.context, seed, count).view(count, len(concepts()), 3, PIXELS, PIXELS)
            rows = sorted({row for other in tasks.values() if other.context == task.context for row in other.rows})
            each = torch.zeros(count, len(concepts()), encoder.dim)
            each[:, rows] = embed(encoder, pixels[:, rows].flatten(0, 1)).view(count, len(rows), -1)
            features[task.context] = each
        truth = torch.arange(len(task.rows))
        right = (features[task.context][:, list(task.rows)] @ task.weights.T).argmax(-1) == truth
        found[name] = 100 * float(right.float().mean())
    return found


def fine_tune(encoder: TwoTowers, tasks: Sequence[Task], *, steps: int, seed: int) -> TwoTowers:
    """Fine-tune the image tower on photographs of one task, or of the union of several."""
    rows = list(dict.fromkeys(row for task in tasks for row in task.rows))
    shown, classes = [], []
    for task in tasks:
        chosen = torch.tensor([rows.index(row) for row in task.rows])
        drawn = photographs(task.context, TRAINING_SEED + 1000 * seed, SHOTS).view(
            SHOTS, len(concepts()), 3, PIXELS, -1
        )
        shown.append(drawn[:, list(task.rows)].flatten(0, 1))
        classes.append(chosen.repeat(SHOTS))
    pixels, targets = torch.cat(shown), torch.cat(classes)
    examples = Examples(lambda wanted: pixels[wanted], targets=targets, head=name_head(bundled(), rows))
    schedule = replace(SCHEDULE, steps=steps, seed=seed)
    return adapt(encoder, examples, Labels(), manner=Manner(Lock(text=True)), schedule=schedule).encoder


@dataclass(frozen=True, slots=True)
class Sweep:
    """The merges of a start with fine-tuned weights at every alpha, and their accuracies on validation photographs."""

    start: TwoTowers
    ends: tuple[TwoTowers, ...]
    validation: Mapping[float, Mapping[str, float]]

    def at(self, alpha: float) -> TwoTowers:
        """Return the merge of an alpha."""
        return merge(self.start, self.ends, alpha)

    def choose(self, *patched: str) -> float:
        """Return the alpha with the best mean of the patched and the supported tasks, the smaller of equal ones."""
        parts = (patched, ("head names", "descriptions"))
        scores = {
            alpha: np.mean([np.mean([found[name] for name in part]) for part in parts]).round(6)
            for alpha, found in self.validation.items()
        }
        return max(scores, key=lambda alpha: (scores[alpha], -alpha))


def merge(start: TwoTowers, ends: Sequence[TwoTowers], alpha: float) -> TwoTowers:
    """Return the merge of a start with fine-tuned encoders at one alpha for all."""
    states = [end.model.state_dict() for end in ends]
    return with_weights(start, add_differences(start.model.state_dict(), states, [alpha] * len(ends)))


def sweep(tasks: Tasks, start: TwoTowers, *ends: TwoTowers) -> Sweep:
    """Measure the merges at every alpha."""
    measured = {alpha: accuracies(merge(start, ends, alpha), tasks, VALIDATION_SEED, VALIDATED) for alpha in ALPHAS}
    return Sweep(start, ends, measured)


def run(tasks: Tasks, *, seed: int, steps: int, both: bool) -> Iterator[tuple[str, float, dict[str, float]]]:
    """Yield the arms of a seed: name, alpha and test accuracies; those of the second task only if asked for."""

    def test(encoder: TwoTowers) -> dict[str, float]:
        return accuracies(encoder, tasks, TEST_SEED, TESTED)

    start, one, two = bundled(), tasks["first"], tasks["second"]
    yield "zero-shot", 0.0, test(start)
    first = fine_tune(start, [one], steps=steps, seed=seed)
    yield "fine-tuned", 1.0, test(first)
    single = sweep(tasks, start, first)
    alpha = single.choose("first")
    patched = single.at(alpha)
    yield "patched", alpha, test(patched)
    if not seed:
        for alpha, found in list(single.validation.items())[::2]:
            print(f"  one task, validation, alpha {alpha:.1f}: {describe([found])}", flush=True)
    if not both:
        return
    second = fine_tune(start, [two], steps=steps, seed=seed)
    arms = {
        "parallel": sweep(tasks, start, first, second),
        "sequential": sweep(tasks, patched, fine_tune(patched, [two], steps=steps, seed=seed)),
        "joint": sweep(tasks, start, fine_tune(start, [one, two], steps=2 * steps, seed=seed)),
    }
    for name, made in arms.items():
        alpha = made.choose(*PATCHES)
        yield name, alpha, test(made.at(alpha))


def main() -> None:
    """Print the arms of each seed, then their means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", choices=("conditions", "names"), default="conditions")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--all", type=int, default=1, help="seeds that patch the second task too")
    asked = parser.parse_args()
    tasks = make_tasks(asked.patch)
    arms: dict[str, list[tuple[float, dict[str, float]]]] = {}
    for seed in range(asked.seeds):
        began = perf_counter()
        for name, alpha, found in run(tasks, seed=seed, steps=asked.steps, both=seed < asked.all):
            arms.setdefault(name, []).append((alpha, found))
            seconds = perf_counter() - began
            print(f"seed {seed} {name:11} alpha {alpha:.2f}  {describe([found])}  ({seconds:.0f} s)", flush=True)
    print(f"patched {asked.patch}; mean and standard deviation of {asked.seeds} seeds, {asked.steps} steps")
    for name, merges in arms.items():
        alphas = ", ".join(f"{alpha:.2f}" for alpha, _ in merges)
        print(f"  {name:11} {describe([found for _, found in merges])}  alpha {alphas}")


def describe(runs: Sequence[Mapping[str, float]]) -> str:
    """Return the mean of each accuracy, with its standard deviation over several runs."""
    parts = []
    for name in runs[0]:
        values = [run[name] for run in runs]
        spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        parts.append(f"{name} {np.mean(values):.1f}{spread}")
    return "  ".join(parts)


if __name__ == "__main__":
    main()

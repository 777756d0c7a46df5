"""Two results files side by side: the same runs measured twice, or one run of each file, paired by image if kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from rag_clip.evaluation.results import Result
from rag_clip.metrics.difference import Difference, paired_difference


@dataclass(frozen=True, slots=True)
class Pair:
    """Two runs of a task; `difference` is between their accuracies on the same images, None if no images were kept."""

    task: str
    before: Result
    after: Result
    difference: Difference | None

    @property
    def name(self) -> str:
        """The run, or both if they differ, with their tiers if these differ."""
        runs = dict.fromkeys([self.before.run, self.after.run])
        tiers = dict.fromkeys([self.before.tier, self.after.tier])
        return f"{self.task} | {' → '.join(runs)} [{' → '.join(tiers)}]"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The pairs of two files, and the runs that only one of them has, as "task | run"."""

    pairs: tuple[Pair, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]


def compare_results(before: Sequence[Result], after: Sequence[Result]) -> Comparison:
    """Pair runs with the same task and name; if each file has one run of a task, these two, whatever their names.

    Runs without a common metric, such as one label and several labels, are not paired. Raises ValueError if there is no
    pair, naming the runs of both files, or their metrics.
    """
    sides = [{(one.task, one.run): one for one in results} for results in (before, after)]
    keys = [key for key in sides[0] if key in sides[1]]
    pairs = [(sides[0][key], sides[1][key]) for key in keys]
    tasks = dict.fromkeys(task for task, _run in sides[0])
    for task in tasks:
        single = [[one for one in results if one.task == task] for results in (before, after)]
        if [len(found) for found in single] == [1, 1] and single[0][0].run != single[1][0].run:
            pairs.append((single[0][0], single[1][0]))
    if not pairs:
        names = [", ".join(f"{task} | {run}" for task, run in side) for side in sides]
        raise ValueError(f"the files have no run in common: {names[0]}; and {names[1]}")
    unlike = [pair for pair in pairs if not _metrics(pair[0]) & _metrics(pair[1])]
    pairs = [pair for pair in pairs if pair not in unlike]
    if not pairs:
        first, second = unlike[0]
        raise ValueError(
            f"the files measure nothing in common: {first.task} | {first.run} is judged by {first.main.metric} in "
            f"the first, by {second.main.metric} in the second; measure both by one metric"
        )
    held = [{(one.task, one.run) for one in side} for side in zip(*pairs, strict=True)]
    left = [
        tuple(f"{task} | {run}" for task, run in side if (task, run) not in used)
        for side, used in zip(sides, held, strict=True)
    ]
    return Comparison(tuple(Pair(one.task, one, two, difference(one, two)) for one, two in pairs), left[0], left[1])


def _metrics(result: Result) -> set[str]:
    return {one.metric for one in result.measures if not one.item}


def difference(before: Result, after: Result) -> Difference | None:
    """Return the paired difference in accuracy over the images that both runs measured.

    A run drawn several times counts with its mean over the draws that measured an image; two such runs are paired draw
    by draw. The interval is over images, with the draws fixed. None if either run kept no predictions, no image was
    measured by both, or an image has different labels.
    """
    if before.images is None or after.images is None:
        return None
    sides = [
        pl.DataFrame(pl.from_arrow(one.images)).select("row", "draw", "target", "right") for one in (before, after)
    ]
    several = all(side["draw"].n_unique() > 1 for side in sides)
    both = sides[0].join(sides[1], on=["row", "draw"] if several else "row", suffix="_after", maintain_order="left")
    if both.is_empty() or not both["target"].equals(both["target_after"]):
        return None
    means = both.group_by("row", maintain_order=True).agg(pl.col("right", "right_after").cast(pl.Float64).mean())
    return paired_difference(means["right"].to_torch(), means["right_after"].to_torch())

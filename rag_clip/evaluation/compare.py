"""Two results files side by side: the same runs measured twice, or one run of each; paired where images were kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from rag_clip.evaluation.results import Result
from rag_clip.metrics.difference import Difference, paired_difference


@dataclass(frozen=True, slots=True)
class Pair:
    """Two runs of a task; `difference` is of their accuracy on the same images, None where these were not kept."""

    task: str
    before: Result
    after: Result
    difference: Difference | None

    @property
    def name(self) -> str:
        """The run, or both where they differ, marked by their tiers where these are unlike."""
        runs = dict.fromkeys([self.before.run, self.after.run])
        tiers = dict.fromkeys([self.before.tier, self.after.tier])
        return f"{self.task} | {' → '.join(runs)} [{' → '.join(tiers)}]"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The pairs of two files, and the runs, as "task | run", that only one of them has."""

    pairs: tuple[Pair, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]


def compare_results(before: Sequence[Result], after: Sequence[Result]) -> Comparison:
    """Pair runs of the same task and name; where a task has one run in each file, those two, whatever their names.

    Runs without a number in common, as of one label and of several, are no pair. Raises ValueError where nothing pairs,
    naming runs of both, or their metrics.
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
    """Return the paired difference in accuracy over the images that both measured.

    What was drawn several times counts with its mean over the draws that measured an image; where both were, draw by
    draw. The interval is over images, with the draws as they were. None where answers were not kept for both, no image
    was measured by both, or one has another label.
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

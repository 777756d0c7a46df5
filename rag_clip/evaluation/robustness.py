"""Robustness: how the runs of one task do on further test sets that are shifted from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rag_clip.evaluation.results import Result
from rag_clip.evaluation.task import Task
from rag_clip.metrics.robustness import effective_robustness

METRICS = ("accuracy", "mean_per_class")


@dataclass(frozen=True, slots=True)
class Robustness:
    """One run on a task and on its shifted test sets.

    run: its name.
    first: accuracy on the task.
    shifted: the mean of the accuracies on the shifted sets.
    effective: the mean of its effective robustness over these sets.
    baseline: whether it is one of the runs that the line was fitted to.
    """

    run: str
    first: float
    shifted: float
    effective: float
    baseline: bool


def check_shifted(tasks: Sequence[Task], first: str) -> None:
    """Refuse, before any work, tasks that are not the task `first` and sets shifted from it, measured by accuracy.

    Raises ValueError, saying which task is at fault.
    """
    names = [task.name for task in tasks]
    if first not in names:
        raise ValueError(f"there is no task {first!r} to be shifted from; the tasks are {', '.join(names)}")
    if len(names) < 2:
        raise ValueError(f"{first!r} is the only task; give the shifted test sets as further tasks")
    for task in tasks:
        if task.metric not in METRICS:
            raise ValueError(f"robustness compares accuracies, but {task.name} is measured by {task.metric}")


def robustness(results: Sequence[Result], task: str) -> list[Robustness]:
    """Compare the runs that were measured on `task` and on every other task, in the order of their results.

    Runs without labelled images are the baselines. Raises ValueError if there is none.
    """
    others = list(dict.fromkeys(result.task for result in results if result.task != task))
    table = {(each.run, each.task): each for each in results}
    runs = [run for run, name in table if name == task and all((run, other) in table for other in others)]
    baselines = [run for run in runs if "FS" not in table[run, task].tier.split("+")]
    if not baselines:
        raise ValueError("every run used labelled images; evaluate the texts alone too, which others are compared to")
    value = {key: each.main.value for key, each in table.items()}
    first = [value[run, task] for run in runs]
    effective = [
        effective_robustness(
            first,
            [value[run, other] for run in runs],
            baselines_first=[value[run, task] for run in baselines],
            baselines_shifted=[value[run, other] for run in baselines],
        )
        for other in others
    ]
    return [
        Robustness(
            run,
            first[place],
            float(np.mean([value[run, other] for other in others])),
            float(np.mean([each[place] for each in effective])),
            run in baselines,
        )
        for place, run in enumerate(runs)
    ]

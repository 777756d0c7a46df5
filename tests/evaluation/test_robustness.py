"""How runs of one task are compared on sets that are shifted from it."""

from __future__ import annotations

from typing import Any

import pytest

from rag_clip.data import LabelSet
from rag_clip.evaluation.results import Measure, Result
from rag_clip.evaluation.robustness import check_shifted, robustness
from rag_clip.evaluation.task import Task

NOTHING: Any = None


def result(task: str, run: str, accuracy: float, tier: str = "T0") -> Result:
    return Result(task, run, tier, "", NOTHING, NOTHING, (Measure("accuracy", "", accuracy),))


def test_runs_are_compared_with_the_line_through_those_without_labels() -> None:
    results = [result(task, "texts", 0.5) for task in ("photos", "sketches", "art")]
    results += [result("photos", "tuned", 0.8, "T1+FS"), result("sketches", "tuned", 0.7, "T1+FS")]
    results += [result("art", "tuned", 0.6, "T1+FS"), result("photos", "elsewhere missing", 0.9, "FS")]
    texts, tuned = robustness(results, "photos")
    assert (texts.run, texts.baseline, texts.effective) == ("texts", True, pytest.approx(0))
    assert (tuned.run, tuned.baseline) == ("tuned", False)
    assert (tuned.first, tuned.shifted) == (0.8, pytest.approx(0.65))
    assert tuned.effective == pytest.approx((0.7 - 0.8 + 0.6 - 0.8) / 2)  # a line of slope 1 foretells 0.8


def test_a_line_needs_a_run_without_labels() -> None:
    results = [result(task, "tuned", 0.8, "T0+FS") for task in ("photos", "sketches")]
    with pytest.raises(ValueError, match="every run used labelled images"):
        robustness(results, "photos")


def test_tasks_that_cannot_be_compared_are_refused_before_any_work() -> None:
    def task(name: str, metric: Any = "accuracy") -> Task:
        return Task(name, metric, {"test": "x.parquet"}, LabelSet(("a", "b")))

    check_shifted([task("photos"), task("art")], "art")
    with pytest.raises(ValueError, match="there is no task 'x' to be shifted from; the tasks are photos, art"):
        check_shifted([task("photos"), task("art")], "x")
    with pytest.raises(ValueError, match="'photos' is the only task"):
        check_shifted([task("photos")], "photos")
    with pytest.raises(ValueError, match="art is measured by map_11_point"):
        check_shifted([task("photos"), task("art", "map_11_point")], "photos")

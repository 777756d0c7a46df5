"""The report's tables: every run of a task with its main numbers, and every run across tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup

from rag_clip.display import counted
from rag_clip.evaluation.compare import difference
from rag_clip.evaluation.results import Measure, Result
from rag_clip.report.charts import FEW
from rag_clip.report.page import folded, name_of, paragraph, piece, section, table


@dataclass(frozen=True, slots=True)
class Column:
    """The title of a metric, the format of its values, and a note for readers."""

    title: str
    form: str = ".1%"
    note: str = ""


COLUMNS = {
    "accuracy": Column("top-1"),
    "map_11_point": Column("mAP, 11 points"),
    "map": Column("mAP"),
    "roc_auc": Column("ROC-AUC"),
    "top5": Column("top-5"),
    "mean_per_class": Column("per class"),
    "acc_c": Column("Acc-C", note="Acc-C, the accuracy within each group of classes"),
    "acc_e": Column("Acc-E", note="Acc-E, on the groups added so far, averaged over a growing vocabulary"),
    "acc_s": Column("Acc-S", note="Acc-S, on one group while the others are added"),
    "ece": Column("ECE", note="ECE, the expected calibration error (lower is better)"),
    "brier": Column("Brier", ".3f", "Brier, the squared error of the probabilities (lower is better)"),
    "aurc": Column("AURC", ".3f", "AURC, the area under the risk-coverage curve (lower is better)"),
    "alignment": Column(
        "alignment", ".3f", "alignment, the squared distance of an image to its class (lower is better)"
    ),
    "uniformity": Column("uniformity", ".3f", "uniformity, how close together the class texts are (lower is better)"),
    "parameters": Column("trained", ",.0f", "trained, the number of trained parameters"),
    "parameter_efficiency": Column("efficiency", ".3f", "efficiency, the main number reduced for trained parameters"),
}
LEAST_RANKED, MOST_RANKED = 3, 10
MORE = ("brier", "aurc", "alignment", "uniformity", "parameters", "parameter_efficiency")


def numbers(results: Sequence[Result]) -> Markup:
    """Return the table of a task: each run's numbers, and its paired difference from the first; collapsed if long.

    Columns that would make it too wide are in a second table, which is collapsed.
    """
    used = {metric: column for metric, column in COLUMNS.items() if any(run.get(metric) for run in results)}
    main = {metric: column for metric, column in used.items() if metric not in MORE}
    more = {metric: column for metric, column in used.items() if metric in MORE}
    first = results[0]
    paired = [None if run is first else difference(first, run) for run in results]
    heads = ["run", *(column.title for column in main.values())]
    rows = [[name_of(run), *(_cell(column, run.get(metric)) for metric, column in main.items())] for run in results]
    bounds = next((run.settings.low_high for run in results if run.settings.low_high), "")
    note = f"Small numbers are the 95 % interval over images{f'; for shots they are {bounds}' if bounds else ''}."
    if "mean_per_class" in main:
        note += (
            " For means over classes (per class, Acc-C, Acc-E, Acc-S) images are resampled within each class, so "
            "intervals are narrower."
        )
    measures = [measure for run in results for metric in main if (measure := run.get(metric))]
    if any(measure.low is not None and measure.bounds is None for measure in measures):
        note += " An interval of width zero is left out: too few images or draws to show any spread prove nothing."
    if any(paired):
        heads.insert(2, f"minus {first.run}")
        for row, change in zip(rows, paired, strict=True):
            row.insert(2, _bounded("+.1%", change.value, (change.low, change.high)) if change else "")
        note += " Differences are paired."
    whole = table(heads, rows) + _notes(main, note)
    return folded(f"All numbers of {counted(len(results), 'run')}", whole, when=_long(results)) + _more(results, more)


def ranking(results: Sequence[Result]) -> Markup:
    """Return the runs of a task from the best to the worst, each compared with the best; nothing for one or two."""
    if len(results) < LEAST_RANKED:
        return Markup()
    ranked = sorted(results, key=lambda run: -run.main.value)
    best, column = ranked[0], COLUMNS[ranked[0].main.metric]
    rows = [
        [Markup("{}. {}").format(place, name_of(run)), f"{run.main.value:{column.form}}", *_behind(best, run)]
        for place, run in enumerate(ranked, start=1)
    ]
    heads = ["run", column.title, "minus the best", "verdict"]
    text = (
        "From the best to the worst. A run is behind the best if the 95 % interval of their paired difference lies "
        "below zero; otherwise these images do not tell them apart."
    )
    shown, rest = rows[:MOST_RANKED], rows[MOST_RANKED:]
    more = folded(f"and {counted(len(rest), 'run')} below", table(heads, rest)) if rest else Markup()
    return section("Ranking", text, table(heads, shown) + more)


def _behind(best: Result, run: Result) -> tuple[str, str]:
    if run is best:
        return "", "best"
    change = difference(best, run)
    if change is None:
        return f"{100 * (run.main.value - best.main.value):+.1f}%", "not paired"
    verdict = "behind" if change.high < 0 else "not told apart"
    return _bounded("+.1%", change.value, (change.low, change.high)), verdict


def _more(results: Sequence[Result], columns: Mapping[str, Column]) -> Markup:
    if not columns:
        return Markup()
    rows = [[name_of(run), *(_cell(column, run.get(metric)) for metric, column in columns.items())] for run in results]
    titles = [column.title for column in columns.values()]
    return folded(f"More: {', '.join(titles)}", table(["run", *titles], rows) + _notes(columns, ""))


def _notes(columns: Mapping[str, Column], before: str) -> Markup:
    notes = "; ".join(column.note for column in columns.values() if column.note)
    return paragraph(f"{before} {notes}." if notes else before, small=True)


def across_tasks(results: Sequence[Result]) -> Markup:
    """Return the main number of every run on every task, and the mean over tasks, best first.

    It includes only runs that exist for every task. Returns nothing for a single task, or if there is no such run.
    """
    tasks = list(dict.fromkeys(result.task for result in results))
    by_run: dict[str, dict[str, Result]] = {}
    for result in results:
        by_run.setdefault(result.run, {})[result.task] = result
    whole = [by_task for by_task in by_run.values() if len(by_task) == len(tasks)]
    if len(tasks) < 2 or not whole:
        return Markup()
    means = [(fmean(result.main.value for result in by_task.values()), by_task) for by_task in whole]
    ranked = sorted(means, key=lambda pair: -pair[0])
    rows = [
        [
            name_of(*by_task.values()),
            piece("strong", f"{mean:.1%}"),
            *(_cell(COLUMNS[by_task[task].main.metric], by_task[task].main) for task in tasks),
        ]
        for mean, by_task in ranked
    ]
    metrics = [whole[0][task].main.metric for task in tasks]
    unlike = len(set(metrics)) > 1
    heads = [
        f"{task}, {COLUMNS[metric].title}" if unlike else task for task, metric in zip(tasks, metrics, strict=True)
    ]
    left = len(by_run) - len(whole)
    return section(
        f"Every run on {counted(len(tasks), 'task')}",
        f"{'The main number of each task' if unlike else COLUMNS[metrics[0]].title}, and its plain mean over the tasks."
        + (f" {left} of {counted(len(by_run), 'run')} lack the result of a task, and so have no mean." if left else ""),
        folded(counted(len(whole), "run"), table(["run", "mean", *heads], rows), when=_long(whole)),
    )


def _long(rows: Sequence[object]) -> bool:
    return len(rows) > FEW


def _cell(column: Column, measure: Measure | None) -> str:
    return "" if measure is None else _bounded(column.form, measure.value, measure.bounds)


def _bounded(form: str, value: float, bounds: tuple[float, float] | None) -> Markup:
    """Return a value, and its bounds as small numbers without a percent sign."""
    return piece("bounded", f"{value:{form}}", [f"{bound:{form}}".replace("%", "") for bound in bounds or ()])

"""The report's tables: every run of a task with its main numbers, and every run across tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup

from rag_clip.evaluation.compare import difference
from rag_clip.evaluation.results import Measure, Result
from rag_clip.report.charts import FEW
from rag_clip.report.page import folded, name_of, paragraph, piece, section, table


@dataclass(frozen=True, slots=True)
class Column:
    """A metric's title, how it is written, and what a reader may need to know of it."""

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
    "acc_e": Column("Acc-E", note="Acc-E, on the groups known so far, over all steps of a growing vocabulary"),
    "acc_s": Column("Acc-S", note="Acc-S, on one group while the others are added"),
    "ece": Column("ECE", note="ECE, the expected calibration error (lower is better)"),
    "brier": Column("Brier", ".3f", "Brier, the squared error of the probabilities (lower is better)"),
    "aurc": Column("AURC", ".3f", "AURC, the area under the curve of risk against coverage (lower)"),
    "alignment": Column("alignment", ".3f", "alignment, the squared distance of an image to its class (lower)"),
    "uniformity": Column("uniformity", ".3f", "uniformity, how close the class texts lie to one another (lower)"),
    "parameters": Column("trained", ",.0f", "trained, the numbers that training sets"),
    "parameter_efficiency": Column("efficiency", ".3f", "efficiency, the main number discounted by those trained"),
}
MORE = ("brier", "aurc", "alignment", "uniformity", "parameters", "parameter_efficiency")


def numbers(results: Sequence[Result]) -> Markup:
    """Return the table of a task: each run's numbers, and its paired difference from the first; folded if long.

    What would make it too wide is in a second one, folded up.
    """
    held = {metric: column for metric, column in COLUMNS.items() if any(one.get(metric) for one in results)}
    main = {metric: column for metric, column in held.items() if metric not in MORE}
    more = {metric: column for metric, column in held.items() if metric in MORE}
    first = results[0]
    paired = [None if one is first else difference(first, one) for one in results]
    heads = ["run", *(column.title for column in main.values())]
    rows = [[name_of(one), *(_cell(column, one.get(metric)) for metric, column in main.items())] for one in results]
    bounds = next((one.settings.low_high for one in results if one.settings.low_high), "")
    note = f"Small figures bound the 95 % interval over images{f'; for shots they are {bounds}' if bounds else ''}."
    if "mean_per_class" in main:
        note += " Those of means over classes (per class, Acc-C, Acc-E, Acc-S) draw images within each class: narrower."
    held_main = [found for one in results for metric in main if (found := one.get(metric))]
    if any(found.low is not None and found.bounds is None for found in held_main):
        note += " They are left out where the images or draws at hand show no spread, which is no certainty."
    if any(paired):
        heads.insert(2, f"less {first.run}")
        for row, change in zip(rows, paired, strict=True):
            row.insert(2, _bounded("+.1%", change.value, (change.low, change.high)) if change else "")
        note += " Differences are paired."
    whole = table(heads, rows) + _notes(main, note)
    return folded(f"All numbers of {len(results)} runs", whole, when=_long(results)) + _more(results, more)


def _more(results: Sequence[Result], columns: Mapping[str, Column]) -> Markup:
    if not columns:
        return Markup()
    rows = [[name_of(one), *(_cell(column, one.get(metric)) for metric, column in columns.items())] for one in results]
    titles = [column.title for column in columns.values()]
    return folded(f"More: {', '.join(titles)}", table(["run", *titles], rows) + _notes(columns, ""))


def _notes(columns: Mapping[str, Column], before: str) -> Markup:
    notes = "; ".join(column.note for column in columns.values() if column.note)
    return paragraph(f"{before} {notes}." if notes else before, small=True)


def across_tasks(results: Sequence[Result]) -> Markup:
    """Return the main number of every run on every task, and the mean over tasks, best first.

    Only runs that every task has are in it; nothing where there is one task, or no such run.
    """
    tasks = list(dict.fromkeys(one.task for one in results))
    by_run: dict[str, dict[str, Result]] = {}
    for one in results:
        by_run.setdefault(one.run, {})[one.task] = one
    whole = [held for held in by_run.values() if len(held) == len(tasks)]
    if len(tasks) < 2 or not whole:
        return Markup()
    means = [(fmean(one.main.value for one in held.values()), held) for held in whole]
    ranked = sorted(means, key=lambda pair: -pair[0])
    rows = [
        [
            name_of(*held.values()),
            piece("strong", f"{mean:.1%}"),
            *(_cell(COLUMNS[held[task].main.metric], held[task].main) for task in tasks),
        ]
        for mean, held in ranked
    ]
    metrics = [whole[0][task].main.metric for task in tasks]
    unlike = len(set(metrics)) > 1
    heads = [
        f"{task}, {COLUMNS[metric].title}" if unlike else task for task, metric in zip(tasks, metrics, strict=True)
    ]
    left = len(by_run) - len(whole)
    return section(
        f"Every run on {len(tasks)} tasks",
        f"{'The main number of each task' if unlike else COLUMNS[metrics[0]].title}, and its plain mean over the tasks."
        + (f" {left} of {len(by_run)} runs lack a task, and so have no mean." if left else ""),
        folded(f"{len(whole)} runs", table(["run", "mean", *heads], rows), when=_long(whole)),
    )


def _long(rows: Sequence[object]) -> bool:
    return len(rows) > FEW


def _cell(column: Column, one: Measure | None) -> str:
    return "" if one is None else _bounded(column.form, one.value, one.bounds)


def _bounded(form: str, value: float, bounds: tuple[float, float] | None) -> Markup:
    """Return a value, and its bounds in small figures without the sign of per cent."""
    return piece("bounded", f"{value:{form}}", [f"{bound:{form}}".replace("%", "") for bound in bounds or ()])

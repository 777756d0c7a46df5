"""The report of an evaluation as one HTML file that needs nothing else: charts, tables, and examples with evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from markupsafe import Markup

from rag_clip.evaluation.compare import Comparison
from rag_clip.evaluation.results import Result
from rag_clip.evaluation.tiers import TIERS
from rag_clip.files.atomic import replacing
from rag_clip.files.outputs import check_outputs
from rag_clip.protocols import Encoder
from rag_clip.report.calibration_chart import draw_reliability
from rag_clip.report.changes import change, confusions
from rag_clip.report.charts import FEW, draw_accuracies
from rag_clip.report.growth import margins, openness, thefts
from rag_clip.report.numbers import COLUMNS, across_tasks, numbers
from rag_clip.report.page import figure, paragraph, render_page, section
from rag_clip.report.shots import few_shots
from rag_clip.report.shown import PALE, Shown, holding, paint, shorten
from rag_clip.report.wording import adversarial_names, synonym_swaps

MOST_PAIRS = 4
MOST_TASKS = 3
MOST_SENTENCES = 6


def write_evaluation(
    path: str | Path,
    results: Sequence[Result],
    *,
    encoder: Encoder | None = None,
    title: str = "Evaluation",
    content: str = "",
    force: bool = False,
) -> None:
    """Write the report of results, task by task; the first run of a task is what its others are compared with.

    `encoder` weighs the captions of the examples by their image; `content` says what the page holds, by default how
    many runs and tasks. Raises ValueError for no results and, but with `force`, for a file that is no report; OSError
    where the file cannot be written, which appears whole or not at all.
    """
    if not results:
        raise ValueError("there is no result to report; evaluate at least one run")
    path = Path(path)
    check_outputs([(path, "evaluate")], force=force)
    tasks = dict.fromkeys(result.task for result in results)
    tuned = dict.fromkeys(one.settings.tuned for one in results)
    page = render_page(
        "evaluation.html",
        "evaluate",
        title=title,
        content=content or f"{_counted(len(results), 'run')} on {_counted(len(tasks), 'task')}",
        version=version("rag-clip"),
        tiers=_tiers(results),
        across=across_tasks(results),
        tasks=_tasks(results, encoder),
        results=results,
        results_are_many=len(results) > FEW,
        tuned=tuned,
        tuned_is_long=len(tuned) > MOST_SENTENCES,
    )
    try:
        with replacing(path) as partial:
            partial.write_text(page, encoding="utf-8")
    except OSError as error:
        reason = f"cannot write the report {path} ({error.strerror}); name another place, or make room"
        raise OSError(error.errno, reason) from error


def write_comparison(
    path: str | Path, comparison: Comparison, *, title: str = "Comparison", force: bool = False
) -> None:
    """Write the report of two results files: of each pair, the run before and the run after; as `write_evaluation`."""
    results = []
    for pair in comparison.pairs:
        sides = (("before", pair.before), ("after", pair.after))
        task = pair.name.rpartition(" [")[0]
        results += [replace(one, task=task, run=f"{one.run} ({when})") for when, one in sides]
    content = f"{_counted(len(comparison.pairs), 'run')}, before and after"
    write_evaluation(path, results, title=title, content=content, force=force)


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _tasks(results: Sequence[Result], encoder: Encoder | None) -> list[tuple[str, Markup, bool]]:
    """Return the name and part of each task, and whether it is folded up: of many tasks all but the first."""
    tasks = list(dict.fromkeys(result.task for result in results))
    return [
        (task, _task([one for one in results if one.task == task], encoder), place > 0 and len(tasks) > MOST_TASKS)
        for place, task in enumerate(tasks)
    ]


def _task(results: Sequence[Result], encoder: Encoder | None) -> Markup:
    shown = paint(results)
    some = (
        f"Of {len(results)} runs the charts below show {len(shown)}: the first, a few texts without a head, "
        "and others spread evenly from the best to the worst; a chart leaves out those that lack its numbers."
    )
    parts = [
        paragraph(_facts(results[0])),
        numbers(results),
        _accuracies(results, shown),
        few_shots(results, title=COLUMNS[results[0].main.metric].title),
        paragraph(some) if len(shown) < len(results) else Markup(),
        openness(shown),
        margins(shown),
        thefts(shown),
        adversarial_names(holding(shown, results, "certified")),
        synonym_swaps(holding(shown, results, "swap_kept")),
        _reliability(shown),
    ]
    kept = [one for one in shown if one.result.images is not None]
    if len(kept) < len(shown) and results[0].main.metric != "map_11_point":
        parts.append(paragraph("The answers to single images were not kept beside these results, so there is no more."))
    if kept:
        parts.append(confusions(kept))
    if len(kept) > 1:
        first, *others = [one.result for one in kept]
        furthest = sorted(others, key=lambda one: -abs(one.main.value - first.main.value))[:MOST_PAIRS]
        furthest.sort(key=lambda one: -one.main.value)
        parts += [change(first, one, encoder, opened=place == 0) for place, one in enumerate(furthest)]
    return Markup().join(parts)


def _accuracies(results: Sequence[Result], shown: Sequence[Shown]) -> Markup:
    """Return the bars of all runs, those of charts below in their colours.

    Many are ordered from the best to the worst, without those of few shots, which have a chart of their own.
    """
    colours = {one.result.run: one.colour for one in shown}
    bars = [Shown(one, colours.get(one.run, PALE)) for one in results]
    if len(bars) > FEW:
        bars = [bar for bar in bars if not bar.result.settings.head or bar.result.settings.head.shots is None] or bars
        bars.sort(key=lambda bar: -bar.result.main.value)
    main = COLUMNS[results[0].main.metric].title
    drawn = any(bar.result.settings.low_high for bar in bars)
    bounds = "" if results[0].main.low is None else ", bounds as in the table" if drawn else ", 95 % intervals"
    return figure(draw_accuracies(bars, title=main + bounds), f"{main} of every run.")


def _facts(result: Result) -> str:
    task, counts = result.settings.task, result.counts
    labels = result.labels
    groups = len(set(labels.groups) - {""}) if labels else 0
    failed = f", {counts.failed} more could not be used" if counts.failed else ""
    grouped = f" in {groups} groups" if groups else ""
    absent = 0 if result.images is None else task.classes - len(result.images["target"].unique())
    lack = f", {absent} of them without an image and in no mean" if absent else ""
    files = ", ".join(task.files)
    return f"{counts.images} images{failed}; {task.classes} classes{grouped}{lack}. {files}"


def _reliability(shown: Sequence[Shown]) -> Markup:
    held = {
        f"{shorten(one.result.run, 26)}\n[{one.result.tier}]": (
            one.colour,
            images["confidence"].to_numpy().astype(float),
            images["right"].to_numpy(),
        )
        for one in shown
        if (images := one.result.images) is not None
    }
    if not held:
        return Markup()
    return section(
        "How far its probabilities can be trusted",
        "Bars are the accuracy of the images with that confidence; red is what is missing to the confidence, pale what "
        "is above it. On the dashed line a classifier is right as often as it says. Below: the share of images.",
        figure(draw_reliability(held), "Reliability."),
    )


def _tiers(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Return the marks of the runs' tiers, and what each says that a run knew."""
    marks = dict.fromkeys(mark for one in results for mark in one.tier.split("+"))
    return [(mark, TIERS[mark]) for mark in sorted(marks, key=list(TIERS).index)]

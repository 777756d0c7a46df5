"""The report of an evaluation as one self-contained HTML file: charts, tables, and examples with evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from markupsafe import Markup

from rag_clip.display import counted
from rag_clip.evaluation.compare import Comparison
from rag_clip.evaluation.results import Result
from rag_clip.evaluation.tiers import TIERS, WORDS, short_tier
from rag_clip.files.atomic import replacing
from rag_clip.files.outputs import check_outputs
from rag_clip.protocols import Encoder
from rag_clip.report.calibration_chart import draw_reliability
from rag_clip.report.changes import change, confusions
from rag_clip.report.charts import FEW, draw_accuracies
from rag_clip.report.growth import margins, openness, thefts
from rag_clip.report.numbers import COLUMNS, across_tasks, numbers, ranking
from rag_clip.report.open_world import open_worlds
from rag_clip.report.page import figure, key, paragraph, render_page, section
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
    """Write the report of results, task by task; the other runs of a task are compared with its first.

    path: the page, which appears whole or not at all.
    results: the runs.
    encoder: ranks the captions of examples by their image; without it they are ranked by weight alone.
    title: of the page.
    content: the line under the title; by default the numbers of runs and tasks.
    force: replace a file that is not a report.

    Raises ValueError for no results and, without `force`, for a file that is not a report; OSError if the file cannot
    be written.
    """
    if not results:
        raise ValueError("there is no result to report; evaluate at least one run")
    path = Path(path)
    check_outputs([(path, "evaluate")], force=force)
    tasks = dict.fromkeys(result.task for result in results)
    tuned = dict.fromkeys(result.settings.tuned for result in results)
    page = render_page(
        "evaluation.html",
        "evaluate",
        title=title,
        content=content or f"{counted(len(results), 'run')} on {counted(len(tasks), 'task')}",
        version=version("rag-clip"),
        tiers=_tiers(results),
        across=across_tasks([run for run in results if not run.settings.held_out]),
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
    """Write the report of a comparison, with both runs of each pair; raises as `write_evaluation` does."""
    results = []
    for pair in comparison.pairs:
        sides = (("before", pair.before), ("after", pair.after))
        task = pair.name.rpartition(" [")[0]
        results += [replace(run, task=task, run=f"{run.run} ({when})") for when, run in sides]
    content = f"{counted(len(comparison.pairs), 'run')}, before and after"
    write_evaluation(path, results, title=title, content=content, force=force)


def _tasks(results: Sequence[Result], encoder: Encoder | None) -> list[tuple[str, Markup, bool]]:
    """Return the name and content of each task, and whether it is collapsed: with many tasks, all but the first."""
    tasks = list(dict.fromkeys(result.task for result in results))
    return [
        (task, _task([run for run in results if run.task == task], encoder), place > 0 and len(tasks) > MOST_TASKS)
        for place, task in enumerate(tasks)
    ]


def _task(every: Sequence[Result], encoder: Encoder | None) -> Markup:
    opened = [run for run in every if run.settings.held_out]
    results = [run for run in every if not run.settings.held_out]
    if not results:
        return open_worlds(opened)
    shown = paint(results)
    some = (
        f"The charts below show {len(shown)} of {len(results)} runs: the first, a few texts without a head, "
        "and others spread evenly from the best to the worst. A chart leaves out runs without its numbers."
    )
    parts = [
        paragraph(_facts(results[0])),
        numbers(results),
        ranking(results),
        _accuracies(results, shown),
        few_shots(results, title=COLUMNS[results[0].main.metric].title),
        paragraph(some) if len(shown) < len(results) else Markup(),
        key(shown),
        openness(shown),
        margins(shown),
        thefts(shown),
        adversarial_names(holding(shown, results, "certified")),
        synonym_swaps(holding(shown, results, "swap_kept")),
        open_worlds(opened),
        _reliability(shown),
    ]
    kept = [run for run in shown if run.result.images is not None]
    if len(kept) < len(shown) and results[0].main.metric != "map_11_point":
        parts.append(
            paragraph(
                "The predictions of some runs for single images were not kept, so these runs are not shown below."
            )
        )
    if kept:
        parts.append(confusions(kept))
    if len(kept) > 1:
        first, *others = [run.result for run in kept]
        furthest = sorted(others, key=lambda result: -abs(result.main.value - first.main.value))[:MOST_PAIRS]
        furthest.sort(key=lambda result: -result.main.value)
        parts += [change(first, result, encoder, opened=place == 0) for place, result in enumerate(furthest)]
    return Markup().join(parts)


def _accuracies(results: Sequence[Result], shown: Sequence[Shown]) -> Markup:
    """Return the bars of all runs; runs in later charts have their colours.

    Many runs are sorted from the best to the worst, without few-shot runs, which have their own chart.
    """
    colours = {run.result.run: run.colour for run in shown}
    bars = [Shown(result, colours.get(result.run, PALE)) for result in results]
    if len(bars) > FEW:
        bars = [bar for bar in bars if not bar.result.settings.head or bar.result.settings.head.shots is None] or bars
        bars.sort(key=lambda bar: -bar.result.main.value)
    main = COLUMNS[results[0].main.metric].title
    drawn = any(bar.result.settings.low_high for bar in bars)
    bounds = "" if results[0].main.low is None else ", bounds as in the table" if drawn else ", 95 % intervals"
    chart = figure(draw_accuracies(bars, title=main + bounds), f"{main} of every run.")
    if all(bar.colour != PALE for bar in bars):
        return chart
    grey = "Grey points" if len(bars) > FEW else "Grey bars"
    return chart + paragraph(f"{grey} are of runs that the charts below leave out; the others keep their colours.")


def _facts(result: Result) -> str:
    task, counts = result.settings.task, result.counts
    labels = result.labels
    groups = len(set(labels.groups) - {""}) if labels else 0
    failed = f", {counts.failed} more could not be used" if counts.failed else ""
    grouped = f" in {counted(groups, 'group')}" if groups else ""
    absent = 0 if result.images is None else task.classes - len(result.images["target"].unique())
    lack = f", {absent} of them without an image and not in the means" if absent else ""
    files = ", ".join(task.files)
    return f"{counted(counts.images, 'image')}{failed}; {counted(task.classes, 'class')}{grouped}{lack}. {files}"


def _reliability(shown: Sequence[Shown]) -> Markup:
    panels = {
        f"{shorten(run.result.run, 26)}\n[{short_tier(run.result.tier)}]": (
            run.colour,
            images["confidence"].to_numpy().astype(float),
            images["right"].to_numpy(),
        )
        for run in shown
        if (images := run.result.images) is not None
    }
    if not panels:
        return Markup()
    return section(
        "How reliable the probabilities are",
        "Bars are the accuracy of the images with that confidence. Red: accuracy is that much below the confidence; "
        "pale: above it. On the dashed line the two are equal. Below: the share of images.",
        figure(draw_reliability(panels), "Reliability."),
    )


def _tiers(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Return the words for the runs' tiers, with the information that each stands for."""
    marks = dict.fromkeys(mark for result in results for mark in result.tier.split("+"))
    return [(WORDS[mark], TIERS[mark]) for mark in sorted(marks, key=list(TIERS).index)]

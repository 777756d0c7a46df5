"""The report of an evaluation as one HTML file that needs nothing else: charts, tables, and examples with evidence."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from rag_clip.atomic import replacing
from rag_clip.protocols import Encoder

from .evaluation.calibration_chart import draw_reliability
from .evaluation.changes import change, confusions
from .evaluation.charts import COLOURS, FEW, Bar, draw_accuracies, draw_openness
from .evaluation.compare import Comparison, difference
from .evaluation.page import STYLE, figure, paragraph, section, table
from .evaluation.results import Measure, Result
from .evaluation.tiers import TIERS

MOST_RUNS = 8
MOST_PAIRS = 4
COLUMNS = {
    "accuracy": "top-1",
    "map_11_point": "mAP, 11 points",
    "map": "mAP",
    "roc_auc": "ROC-AUC",
    "top5": "top-5",
    "mean_per_class": "per class",
    "acc_c": "Acc-C",
    "acc_e": "Acc-E",
    "acc_s": "Acc-S",
    "ece": "ECE",
    "brier": "Brier",
    "aurc": "AURC",
}
PLAIN = ("brier", "aurc")


def write_evaluation(
    path: str | Path, results: Sequence[Result], *, encoder: Encoder | None = None, title: str = "Evaluation"
) -> None:
    """Write the report of results, task by task; the first run of a task is what its others are compared with.

    `encoder` weighs the captions of the examples by their image. Raises ValueError for no results, OSError where the
    file cannot be written; it appears whole or not at all.
    """
    if not results:
        raise ValueError("there is no result to report; evaluate at least one run")
    path = Path(path)
    tasks = dict.fromkeys(result.task for result in results)
    body = "".join(_task(task, [one for one in results if one.task == task], encoder) for task in tasks)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><header><h1>{html.escape(title)}</h1>"
        f"<p>{len(results)} runs on {len(tasks)} {'task' if len(tasks) == 1 else 'tasks'} · "
        f"rag-clip {version('rag-clip')}</p></header>{_tiers(results)}{body}{_settings(results)}</html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")


def write_comparison(path: str | Path, comparison: Comparison, *, title: str = "Comparison") -> None:
    """Write the report of two results files: of each pair, the run before and the run after; as `write_evaluation`."""
    results = []
    for pair in comparison.pairs:
        sides = (("before", pair.before), ("after", pair.after))
        task = pair.name.rpartition(" [")[0]
        results += [replace(one, task=task, run=f"{one.run} ({when})") for when, one in sides]
    write_evaluation(path, results, title=title)


def choose_shown(results: Sequence[Result], most: int = MOST_RUNS) -> list[Result]:
    """Return all runs where they are few; else the first, and others spread evenly from the best to the worst."""
    if len(results) <= most:
        return list(results)
    ranked = sorted(results[1:], key=lambda one: -one.main.value)
    places = [round(step * (len(ranked) - 1) / (most - 2)) for step in range(most - 1)]
    return [results[0], *(ranked[place] for place in places)]


def _task(task: str, results: Sequence[Result], encoder: Encoder | None) -> str:
    shown = choose_shown(results)
    colours = {one.run: COLOURS[place] for place, one in enumerate(shown)}
    some = "" if len(shown) == len(results) else (
        f"Of {len(results)} runs the charts below show the first, and {len(shown) - 1} spread evenly from the best to "
        "the worst."
    )  # fmt: skip
    main = COLUMNS[results[0].main.metric]
    parts = [
        f"<h2>{html.escape(task)}</h2>",
        paragraph(_facts(results[0])),
        _folded(_numbers(results), results),
        figure(draw_accuracies([_bar(one, colours) for one in _ordered(results)], title=main), f"{main} of every run."),
        paragraph(some) if some else "",
        _openness(shown, colours),
        _reliability(shown, colours),
    ]
    kept = [one for one in shown if one.images is not None]
    if len(kept) < len(shown):
        parts.append(paragraph("The answers to single images were not kept beside these results, so there is no more."))
    if kept:
        parts.append(confusions(kept))
    if len(kept) > 1:
        parts += [change(kept[0], other, encoder, opened=place == 0) for place, other in enumerate(_others(kept))]
    return "".join(parts)


def _others(kept: Sequence[Result]) -> list[Result]:
    return sorted(kept[1:], key=lambda one: -abs(one.main.value - kept[0].main.value))[:MOST_PAIRS]


def _facts(result: Result) -> str:
    task, settings = result.settings["task"], result.settings
    labels = result.labels
    groups = len(set(labels.groups) - {""}) if labels else 0
    failed = f", {settings['failed']} more could not be used" if settings.get("failed") else ""
    grouped = f" in {groups} groups" if groups else ""
    return f"{settings.get('images', '?')} images{failed}; {task['classes']} classes{grouped}. " + ", ".join(
        task["files"]
    )


def _folded(content: str, results: Sequence[Result]) -> str:
    if len(results) <= FEW:
        return content
    return f"<details><summary>All numbers of {len(results)} runs</summary>{content}</details>"


def _ordered(results: Sequence[Result]) -> list[Result]:
    """Return many runs from the best to the worst, few as they were given."""
    return list(results) if len(results) <= FEW else sorted(results, key=lambda one: -one.main.value)


def _numbers(results: Sequence[Result]) -> str:
    held = {metric: name for metric, name in COLUMNS.items() if any(one.get(metric) for one in results)}
    first = results[0]
    rows = []
    for one in results:
        paired = difference(first, one) if one is not first else None
        shown = "" if paired is None else f"{paired.value:+.1%}{_bounds(paired.low, paired.high, '+.1%')}"
        cells = [_cell(metric, one.get(metric)) for metric in held]
        rows.append([_name(one), cells[0], shown, *cells[1:]])
    heads = ["run", *held.values()]
    heads.insert(2, f"less {first.run}")
    note = (
        "Small figures bound the 95 % interval of the bootstrap over images; for shots, they are the mean over the "
        "draws less and plus the standard deviation. Differences are paired. Lower is better in three: ECE, the "
        "expected calibration error; Brier, the squared error of the probabilities; and AURC, the area under the curve "
        "of risk against coverage."
    )
    return table(heads, rows) + paragraph(note, small=True)


def _cell(metric: str, one: Measure | None) -> str:
    if one is None:
        return ""
    form = ".3f" if metric in PLAIN else ".1%"
    return f"{one.value:{form}}{_bounds(one.low, one.high, form)}"


def _bounds(low: float | None, high: float | None, form: str) -> str:
    if low is None or high is None:
        return ""
    return f"<small>{low:{form}} … {high:{form}}</small>".replace("%", "")


def _openness(shown: Sequence[Result], colours: Mapping[str, str]) -> str:
    curves = {one.run: (colours[one.run], list(one.series("accuracy_by_groups").values())) for one in shown}
    curves = {run: curve for run, curve in curves.items() if curve[1]}
    if not curves:
        return ""
    return section(
        "How accuracy holds while the vocabulary grows",
        "Expected accuracy on the images of the groups known so far, when groups of classes are added in random order; "
        "exact, from one matrix of logits. It starts at Acc-C and its mean is Acc-E.",
        figure(draw_openness(curves), "Openness."),
    )


def _reliability(shown: Sequence[Result], colours: Mapping[str, str]) -> str:
    held = {
        one.run: (colours[one.run], one.images["confidence"].to_numpy().astype(float), one.images["right"].to_numpy())
        for one in shown
        if one.images is not None
    }
    if not held:
        return ""
    return section(
        "How far its probabilities can be trusted",
        "Bars are the accuracy of the images with that confidence; red is what is missing to the confidence, or above "
        "it. On the dashed line a classifier is right as often as it says. Below: the share of images.",
        figure(draw_reliability(held), "Reliability."),
    )


def _settings(results: Sequence[Result]) -> str:
    entries = "".join(
        f"<details><summary>{html.escape(one.task)}: {_name(one)}</summary>{paragraph(one.settings['tuned'])}"
        f"<pre>{html.escape(json.dumps(one.settings, indent=1, ensure_ascii=False))}</pre></details>"
        for one in results
    )
    tuned = {one.settings["tuned"]: None for one in results}
    return f"<h2>Settings, and what was tuned on what</h2>{''.join(map(paragraph, tuned))}{entries}"


def _tiers(results: Sequence[Result]) -> str:
    marks = dict.fromkeys(mark for one in results for mark in one.tier.split("+"))
    lines = "; ".join(f"<span class=tier>{mark}</span> {TIERS[mark]}" for mark in sorted(marks, key=list(TIERS).index))
    return f"<p class=note>What a run knew beside the images: {lines}. Runs of unlike tiers do not compete.</p>"


def _name(result: Result) -> str:
    return f"{html.escape(result.run)} <span class=tier>{result.tier}</span>"


def _bar(result: Result, colours: Mapping[str, str]) -> Bar:
    whole = {one.metric: one for one in result.measures if not one.item}
    return Bar(f"{result.run}  [{result.tier}]", colours.get(result.run, "#b4bfca"), result.main, whole)

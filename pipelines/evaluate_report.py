"""The report of an evaluation as one HTML file that needs nothing else: charts, tables, and examples with evidence."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from rag_clip.atomic import replacing
from rag_clip.evaluate.uncertainty import Difference, paired_difference
from rag_clip.protocols import Encoder

from .evaluation.charts import COLOURS, Bar, draw_accuracies, draw_openness, draw_reliability
from .evaluation.class_charts import draw_confusions, draw_gains
from .evaluation.examples import Example, describe_captions, find_changes
from .evaluation.page import STYLE, figure, paragraph, section, table
from .evaluation.results import Measure, Result
from .evaluation.tiers import TIERS

MOST_RUNS = 8
MOST_PAIRS = 4
CONFUSED = 16
COLUMNS = {
    "accuracy": "top-1", "top5": "top-5", "mean_per_class": "per class", "acc_c": "Acc-C", "acc_e": "Acc-E",
    "acc_s": "Acc-S", "ece": "ECE", "brier": "Brier", "aurc": "AURC",
}  # fmt: skip
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


def choose_shown(results: Sequence[Result], most: int = MOST_RUNS) -> list[Result]:
    """Return all runs where they are few; else the first, and others spread evenly from the best to the worst."""
    if len(results) <= most:
        return list(results)
    ranked = sorted(results[1:], key=lambda one: -_value(one, "accuracy"))
    places = [round(step * (len(ranked) - 1) / (most - 2)) for step in range(most - 1)]
    return [results[0], *(ranked[place] for place in places)]


def _task(task: str, results: Sequence[Result], encoder: Encoder | None) -> str:
    shown = choose_shown(results)
    colours = {one.run: COLOURS[place] for place, one in enumerate(shown)}
    some = "" if len(shown) == len(results) else (
        f"Of {len(results)} runs the charts below show the first, and {len(shown) - 1} spread evenly from the best to "
        "the worst."
    )  # fmt: skip
    parts = [
        f"<h2>{html.escape(task)}</h2>",
        paragraph(_facts(results[0])),
        _numbers(results),
        figure(draw_accuracies([_bar(one, colours) for one in results]), "Top-1 accuracy of every run."),
        paragraph(some) if some else "",
        _openness(shown, colours),
        _reliability(shown, colours),
    ]
    kept = [one for one in shown if one.images is not None]
    if len(kept) < len(shown):
        parts.append(paragraph("The answers to single images were not kept beside these results, so there is no more."))
    if kept:
        parts.append(_confusions(kept))
    if len(kept) > 1:
        parts += [_pair(kept[0], other, encoder, opened=place == 0) for place, other in enumerate(_others(kept))]
    return "".join(parts)


def _others(kept: Sequence[Result]) -> list[Result]:
    return sorted(kept[1:], key=lambda one: -abs(_value(one, "accuracy") - _value(kept[0], "accuracy")))[:MOST_PAIRS]


def _facts(result: Result) -> str:
    task, settings = result.settings["task"], result.settings
    labels = result.labels
    groups = len(set(labels.groups) - {""}) if labels else 0
    failed = f", {settings['failed']} more could not be used" if settings.get("failed") else ""
    grouped = f" in {groups} groups" if groups else ""
    return f"{settings.get('images', '?')} images{failed}; {task['classes']} classes{grouped}. " + ", ".join(
        task["files"]
    )


def _numbers(results: Sequence[Result]) -> str:
    held = {metric: name for metric, name in COLUMNS.items() if any(one.get(metric) for one in results)}
    first = results[0]
    rows = []
    for one in results:
        change = _difference(first, one) if one is not first else None
        difference = "" if change is None else f"{change.value:+.1%}{_bounds(change.low, change.high, '+.1%')}"
        cells = [_cell(metric, one.get(metric)) for metric in held]
        rows.append([_name(one), cells[0], difference, *cells[1:]])
    heads = ["run", *held.values()]
    heads.insert(2, f"less {first.run}")
    note = (
        "Small figures bound the 95 % interval of the bootstrap over images; differences are paired. Lower is better "
        "in three: ECE, the expected calibration error; Brier, the squared error of the probabilities; and AURC, the "
        "area under the curve of risk against coverage."
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


def _confusions(kept: Sequence[Result]) -> str:
    labels = kept[0].labels
    assert labels is not None
    best = max(kept[1:], key=lambda one: _value(one, "accuracy"), default=kept[0])
    matrices = {one.run: _matrix(one, len(labels)) for one in (kept[0], best)}
    classes = _confused(np.sum(list(matrices.values()), axis=0))
    if not classes:
        return ""
    drawn = {run: matrix[np.ix_(classes, classes)] for run, matrix in matrices.items()}
    return section(
        "Which classes are taken for which",
        f"The classes of the worst pairs in {' and '.join(matrices)} together, counted in images; blue is right, red "
        "is wrong.",
        figure(draw_confusions(drawn, [labels.names[row] for row in classes]), "Confusions."),
    )


def _confused(matrix: np.ndarray) -> list[int]:
    """Return the classes of the most frequent wrong pairs, up to CONFUSED of them, those of a pair side by side."""
    wrong = matrix - np.diag(np.diag(matrix))
    classes: dict[int, None] = {}
    for cell in np.argsort(-wrong, axis=None, kind="stable"):
        label, prediction = divmod(int(cell), len(matrix))
        if wrong[label, prediction] == 0 or len(classes.keys() | {label, prediction}) > CONFUSED:
            break
        classes |= {label: None, prediction: None}
    return list(classes)


def _pair(before: Result, after: Result, encoder: Encoder | None, *, opened: bool) -> str:
    labels, change = after.labels, _difference(before, after)
    assert labels is not None
    recalls = [one.series("recall") for one in (before, after)]
    names = [name for name in labels.names if name in recalls[0] and name in recalls[1]]
    values = [np.array([recall[name] for name in names]) for recall in recalls]
    sentence = "" if change is None else _sentence(before, after, change)
    changes = find_changes(before, after, encoder=encoder)
    return (
        f"<details{' open' if opened else ''}><summary>{html.escape(before.run)} → {html.escape(after.run)}</summary>"
        f"{paragraph(sentence)}{figure(draw_gains(names, *values), 'Gains by class.')}"
        f"{_examples('Right only after', changes.gained)}{_examples('Right only before', changes.lost)}</details>"
    )


def _sentence(before: Result, after: Result, change: Difference) -> str:
    unlike = "" if before.tier == after.tier else f" The runs are of unlike tiers, {before.tier} and {after.tier}."
    return (
        f"{after.run} is right on {change.gained} images that {before.run} got wrong, and wrong on {change.lost} that "
        f"it got right: {change.value:+.1%} ({change.low:+.1%} … {change.high:+.1%}). If neither were better, a split "
        f"this uneven had probability {change.probability:.2g}.{unlike}"
    )


def _examples(title: str, examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    cells = "".join(
        f'<figure class="example">{_img(one)}<figcaption><b>{html.escape(one.label)}</b>'
        f'<span class="{"up" if one.before == one.label else "down"}">before: {html.escape(one.before)}</span>'
        f'<span class="{"up" if one.after == one.label else "down"}">after: {html.escape(one.after)}</span>'
        + "".join(f"<q>{html.escape(text)}</q>" for text in describe_captions(one.captions))
        + "</figcaption></figure>"
        for one in examples
    )
    return f'<h4>{title}</h4><div class="examples">{cells}</div>'


def _img(example: Example) -> str:
    return f'<img alt="" src="{example.picture}">' if example.picture else '<i class="gone">image gone</i>'


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
    return Bar(f"{result.run}  [{result.tier}]", colours.get(result.run, "#b4bfca"), whole)


def _difference(before: Result, after: Result) -> Difference | None:
    if before.images is None or after.images is None or not before.images["row"].equals(after.images["row"]):
        return None
    first, second = (torch.from_numpy(one["right"].to_numpy()) for one in (before.images, after.images))
    return paired_difference(first, second)


def _matrix(result: Result, classes: int) -> np.ndarray:
    assert result.images is not None
    cells = result.images["target"].to_numpy().astype(np.int64) * classes + result.images["predicted"].to_numpy()
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def _value(result: Result, metric: str) -> float:
    found = result.get(metric)
    return 0.0 if found is None else found.value

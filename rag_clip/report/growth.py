"""The report's sections on a growing vocabulary: accuracy curves, margins, and which classes take whose images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from rag_clip.evaluation.results import Result
from rag_clip.report.class_charts import draw_thefts
from rag_clip.report.curve_charts import draw_margins, draw_openness
from rag_clip.report.page import figure, paragraph, section, table
from rag_clip.report.shown import Shown, first_and_best

PAIRS = 10
PAIRS_OF_LABEL = 2
THIEF = " ← "


def openness(shown: Sequence[Shown]) -> Markup:
    """Return the curves of expected accuracy; nothing if no run has one."""
    by_groups, by_classes = (
        [run for run in shown if run.result.series(f"accuracy_by_{unit}")] for unit in ("groups", "classes")
    )
    runs = [run for run in shown if run in by_groups or run in by_classes]
    if not runs:
        return Markup()
    parts = ["Expected accuracy on the images of the classes added so far; exact, from one matrix of logits."]
    if by_groups:
        parts.append("Groups of classes are added in random order: this starts at Acc-C, and its mean is Acc-E.")
    if by_classes:
        parts.append("Single classes are added in random order: this starts at 100 % and ends at the mean per class.")
    return section(
        "How accuracy changes as the vocabulary grows", " ".join(parts), figure(draw_openness(runs), "Openness.")
    )


def margins(shown: Sequence[Shown]) -> Markup:
    """Return the cumulative curves of the margins; nothing if no run has them."""
    runs = [run for run in shown if run.result.series("margin_last")]
    if not runs:
        return Markup()
    first = any(run.result.series("margin_first") for run in runs)
    return section(
        "How far the label is ahead",
        "The margin of an image is the logit of its label minus the best other logit; below 0 the image is wrong. A "
        "curve further to the right is better. Its height at 0 is the error; the outer 5 % at both ends are thin."
        + (" The left chart has the classes of the label's group, the right one all classes." if first else ""),
        figure(draw_margins(runs), "Margins.") + _means(runs),
    )


def _means(runs: Sequence[Shown]) -> Markup:
    means = ((run, run.result.get("margin_last")) for run in runs)
    parts = [
        f"{run.name()} {mean.value:.2f}" + ("" if mean.low is None else f" ({mean.low:.2f} … {mean.high:.2f})")
        for run, mean in means
        if mean
    ]
    if not parts:
        return Markup()
    return paragraph(f"Means among all classes, with 95 % intervals: {'; '.join(parts)}.", small=True)


def thefts(shown: Sequence[Shown]) -> Markup:
    """Return which groups and classes score at least as high as the label, for the first run and the best other."""
    runs = [run for run in shown if run.result.series("taken")]
    if not runs:
        return Markup()
    runs = first_and_best(runs)
    groups = list(dict.fromkeys(key.partition(THIEF)[0] for key in runs[0].result.series("taken_by_group")))
    matrices = {run.name(): _by_group(run.result, groups) for run in runs}
    chart = figure(draw_thefts(matrices, groups), "Shares taken, by group.") if groups else ""
    return section(
        "Which classes take whose images",
        "A class takes an image if it scores at least as high as the image's label, even if a third class scores "
        "higher; so several classes can take one image. A dash in the table is a share that is not among the 50 "
        "largest of a run, at most three per label."
        + (" A group takes an image if one of its classes does; the label's own group is framed." if groups else ""),
        chart + _pairs(runs) + _besieged(runs),
    )


def _by_group(result: Result, groups: Sequence[str]) -> np.ndarray:
    shares = result.series("taken_by_group")
    return np.array([[shares.get(f"{row}{THIEF}{column}", np.nan) for column in groups] for row in groups])


def _pairs(runs: Sequence[Shown]) -> Markup:
    """Return a table of the worst pairs, at most two per label; a dash is a pair that a run does not list."""
    taken = [run.result.series("taken") for run in runs]
    worst = {key: max(each.get(key, 0.0) for each in taken) for key in {key for each in taken for key in each}}
    by_label: dict[str, list[str]] = {}
    for key in sorted(worst, key=lambda key: (-worst[key], key)):
        by_label.setdefault(key.partition(THIEF)[0], []).append(key)
    spread = [key for keys in by_label.values() for key in keys[:PAIRS_OF_LABEL]]
    keys = sorted(spread, key=lambda key: -worst[key])[:PAIRS]
    rows = [[key, *(_share(each.get(key)) for each in taken)] for key in keys]
    return table(["images of ← taken by", *(run.name() for run in runs)], rows)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _besieged(runs: Sequence[Shown]) -> Markup:
    """Return a sentence on the classes whose images are taken by the most groups."""
    sentences = []
    for run in runs:
        means = sorted(run.result.series("thieves_mean").items(), key=lambda item: -item[1])[:5]
        if means and means[0][1] > 0:
            named = ", ".join(f"{name} ({mean:.2f})" for name, mean in means if mean > 0)
            sentences.append(f"{run.name()}: {named}.")
    if not sentences:
        return Markup()
    return paragraph(
        "The classes whose images are taken by the most other groups, with the mean number of groups per image: "
        + " ".join(sentences),
        small=True,
    )

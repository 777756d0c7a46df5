"""The report's sections on a growing vocabulary: its curves, the margins, and who takes whose images."""

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
    """Return the curves of expected accuracy; nothing where no run has one."""
    by_groups, by_classes = (
        [one for one in shown if one.result.series(f"accuracy_by_{of}")] for of in ("groups", "classes")
    )
    held = [one for one in shown if one in by_groups or one in by_classes]
    if not held:
        return Markup()
    parts = ["Expected accuracy on the images of what is known so far; exact, from one matrix of logits."]
    if by_groups:
        parts.append("Groups of classes are added in random order: this starts at Acc-C, and its mean is Acc-E.")
    if by_classes:
        parts.append("Single classes are added in random order: this starts at 100 % and ends at the mean per class.")
    return section(
        "How accuracy holds while the vocabulary grows", " ".join(parts), figure(draw_openness(held), "Openness.")
    )


def margins(shown: Sequence[Shown]) -> Markup:
    """Return the cumulative curves of the margins; nothing where no run has them."""
    held = [one for one in shown if one.result.series("margin_last")]
    if not held:
        return Markup()
    first = any(one.result.series("margin_first") for one in held)
    return section(
        "How far the label leads",
        "The margin of an image is the logit of its label less the best other one; below 0 it is wrong. A curve "
        "further to the right is better. Its height at 0 is the error; "
        "thin are the outer 5 % at either end."
        + (" From the left chart to the right one, the classes of all other groups were added." if first else ""),
        figure(draw_margins(held), "Margins.") + _means(held),
    )


def _means(held: Sequence[Shown]) -> Markup:
    means = ((one, one.result.get("margin_last")) for one in held)
    written = [
        f"{one.name()} {mean.value:.2f}" + ("" if mean.low is None else f" ({mean.low:.2f} … {mean.high:.2f})")
        for one, mean in means
        if mean
    ]
    if not written:
        return Markup()
    return paragraph(f"Means among all classes, with 95 % intervals: {'; '.join(written)}.", small=True)


def thefts(shown: Sequence[Shown]) -> Markup:
    """Return which groups and classes score as high as the label, for the first run and the best other one."""
    held = [one for one in shown if one.result.series("taken")]
    if not held:
        return Markup()
    held = first_and_best(held)
    groups = list(dict.fromkeys(key.partition(THIEF)[0] for key in held[0].result.series("taken_by_group")))
    matrices = {one.name(): _by_group(one.result, groups) for one in held}
    chart = figure(draw_thefts(matrices, groups), "Shares taken, by group.") if groups else ""
    return section(
        "Who takes whose images",
        "An image is taken by a class that scores at least as high as its label, even if a third scores higher still; "
        "so an image can be taken more than once. In the table a dash is a share that is not among the 50 greatest of "
        "a run, three of a label at most."
        + (" A group takes it where one of its classes does; framed, the label's own group." if groups else ""),
        chart + _pairs(held) + _besieged(held),
    )


def _by_group(result: Result, groups: Sequence[str]) -> np.ndarray:
    shares = result.series("taken_by_group")
    return np.array([[shares.get(f"{row}{THIEF}{column}", np.nan) for column in groups] for row in groups])


def _pairs(held: Sequence[Shown]) -> Markup:
    """Return the worst pairs, two of a label at most; a dash stands for what is not among a run's greatest."""
    taken = [one.result.series("taken") for one in held]
    worst = {key: max(each.get(key, 0.0) for each in taken) for key in {key for each in taken for key in each}}
    by_label: dict[str, list[str]] = {}
    for key in sorted(worst, key=lambda key: (-worst[key], key)):
        by_label.setdefault(key.partition(THIEF)[0], []).append(key)
    spread = [key for keys in by_label.values() for key in keys[:PAIRS_OF_LABEL]]
    keys = sorted(spread, key=lambda key: -worst[key])[:PAIRS]
    rows = [[key, *(_share(each.get(key)) for each in taken)] for key in keys]
    return table(["images of ← taken by", *(one.name() for one in held)], rows)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _besieged(held: Sequence[Shown]) -> Markup:
    """Return a sentence on the classes whose images other groups take most."""
    sentences = []
    for one in held:
        means = sorted(one.result.series("thieves_mean").items(), key=lambda item: -item[1])[:5]
        if means and means[0][1] > 0:
            named = ", ".join(f"{name} ({mean:.2f})" for name, mean in means if mean > 0)
            sentences.append(f"{one.name()}: {named}.")
    if not sentences:
        return Markup()
    return paragraph(
        "The classes whose images most other groups take, with how many take an image in the mean: "
        + " ".join(sentences),
        small=True,
    )

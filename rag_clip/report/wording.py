"""The report's sections on words: names that would take images if they were added, and synonyms in place of names."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from rag_clip.evaluation.results import Result
from rag_clip.report.name_charts import draw_name_sets, draw_single_names, draw_swaps
from rag_clip.report.page import figure, section, table
from rag_clip.report.shown import Shown, first_and_best

SWAPS = 8


def adversarial_names(shown: Sequence[Shown]) -> Markup:
    """Return what further names take, singly and as a set; nothing where no run was measured against candidates."""
    held = [one for one in shown if one.result.get("certified")]
    if not held:
        return Markup()
    pair = [one for one in first_and_best(held) if one.result.series("adversarial_name")]
    single = figure(draw_single_names(pair), "The worst single names.") if pair else ""
    return section(
        "Which further names would take the most images",
        "Candidate names were put into the same templates and added to the vocabulary; images that were right are lost "
        "where a candidate scores as high as the label. Above, one name at a time: the accuracy that it leaves. Below, "
        "a set that grows by the name that takes most of what is left; dashed, what all candidates together leave.",
        single + figure(draw_name_sets(held), "The worst set of names."),
    )


def synonym_swaps(shown: Sequence[Shown]) -> Markup:
    """Return what happens where a class is called by a synonym; nothing where no class has one."""
    held = [one for one in shown if one.result.get("swap_kept")]
    if not held:
        return Markup()
    return section(
        "What changes when a class is called by a synonym",
        "One class at a time is called by one of its synonyms; the others keep their names. Means over all swaps.",
        figure(draw_swaps(held), "Synonyms.") + _worst(first_and_best(held)),
    )


def _worst(held: Sequence[Shown]) -> Markup:
    """Return a table of the swaps that cost a class most, by its recall before and after."""
    after = [one.result.series("swap_recall") for one in held]
    lost = {
        swap: max(_recall(one.result, swap) - each[swap] for one, each in zip(held, after, strict=True) if swap in each)
        for swap in {swap for each in after for swap in each}
    }
    worst = [swap for swap in sorted(lost, key=lambda swap: (-lost[swap], swap)) if lost[swap] > 0][:SWAPS]
    if not worst:
        return Markup()
    rows = [
        [
            swap,
            *(
                f"{_recall(one.result, swap):.0%} → {each[swap]:.0%}" if swap in each else "–"
                for one, each in zip(held, after, strict=True)
            ),
        ]
        for swap in worst
    ]
    return table(["recall, class → synonym", *(one.name() for one in held)], rows)


def _recall(result: Result, swap: str) -> float:
    found = result.get("recall", swap.partition(" → ")[0])
    return found.value if found else 0.0

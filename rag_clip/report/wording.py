"""The report's sections on adversarial names and synonyms."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from rag_clip.evaluation.results import Result
from rag_clip.report.name_charts import draw_name_sets, draw_single_names, draw_swaps
from rag_clip.report.page import figure, section, table
from rag_clip.report.shown import Shown, first_and_best

SWAPS = 8


def adversarial_names(shown: Sequence[Shown]) -> Markup:
    """Return the charts of adversarial names, alone and as a set; nothing if no run was measured with candidates."""
    runs = [run for run in shown if run.result.get("certified")]
    if not runs:
        return Markup()
    pair = [run for run in first_and_best(runs) if run.result.series("adversarial_name")]
    single = figure(draw_single_names(pair), "The worst single names.") if pair else ""
    return section(
        "Adversarial names: which names would take the most images",
        "Candidate names were put into the same templates and added to the vocabulary. A correct image is lost if a "
        "candidate scores at least as high as its label. Above: the accuracy left after adding one name. Below: a set "
        "that grows by the name that takes the most remaining images; dashed: the accuracy certified against all "
        "candidates.",
        single + figure(draw_name_sets(runs), "The worst set of names."),
    )


def synonym_swaps(shown: Sequence[Shown]) -> Markup:
    """Return the effect of synonyms in place of names; nothing if no class has one."""
    runs = [run for run in shown if run.result.get("swap_kept")]
    if not runs:
        return Markup()
    return section(
        "What changes when a class is called by a synonym",
        "One class at a time is called by one of its synonyms; the others keep their names. Means over all swaps.",
        figure(draw_swaps(runs), "Synonyms.") + _worst(first_and_best(runs)),
    )


def _worst(runs: Sequence[Shown]) -> Markup:
    """Return a table of the swaps that lower the recall of their class most, with the recall before and after."""
    after = [run.result.series("swap_recall") for run in runs]
    lost = {
        swap: max(_recall(run.result, swap) - each[swap] for run, each in zip(runs, after, strict=True) if swap in each)
        for swap in {swap for each in after for swap in each}
    }
    worst = [swap for swap in sorted(lost, key=lambda swap: (-lost[swap], swap)) if lost[swap] > 0][:SWAPS]
    if not worst:
        return Markup()
    rows = [
        [
            swap,
            *(
                f"{_recall(run.result, swap):.0%} → {each[swap]:.0%}" if swap in each else "–"
                for run, each in zip(runs, after, strict=True)
            ),
        ]
        for swap in worst
    ]
    return table(["recall, class → synonym", *(run.name() for run in runs)], rows)


def _recall(result: Result, swap: str) -> float:
    recall = result.get("recall", swap.partition(" → ")[0])
    return recall.value if recall else 0.0

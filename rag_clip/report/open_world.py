"""The report's section on open worlds: how well images of held-out classes are told, beside the baselines."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from rag_clip.evaluation.results import Measure, Result
from rag_clip.report.page import name_of, section, table

OURS = "negatives in groups (classify --open)"


def open_worlds(results: Sequence[Result]) -> Markup:
    """Return a row for each run and way of telling; nothing without runs in an open world."""
    rows = [
        [name_of(run), auc.item or OURS, _cell(auc), _cell(run.get("fpr95", auc.item))]
        for run in results
        for auc in run.measures
        if auc.metric == "roc_auc"
    ]
    if not rows:
        return Markup()
    facts = [run.settings.held_out for run in results if run.settings.held_out]
    held = f"{facts[0].classes} classes are held out, {facts[0].draws} times" if facts else "Classes are held out"
    return section(
        "How well images of unknown classes are told",
        f"{held}; their images are to be told from the others. ROC-AUC: the share of pairs in the right order. FPR95 "
        "(lower is better): the share of unknown images that pass where 95 % of the known ones do. In brackets: the "
        "mean -/+ the standard deviation over the draws.",
        table(["run", "told by", "ROC-AUC", "FPR95"], rows),
    )


def _cell(measure: Measure | None) -> str:
    if measure is None:
        return ""
    bounds = "" if measure.bounds is None else " ({:.3f} to {:.3f})".format(*measure.bounds)
    return f"{measure.value:.3f}{bounds}"

"""The report's sections on confused classes, and on what changed from one run to another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from rag_clip.display import counted
from rag_clip.evaluation.compare import difference
from rag_clip.evaluation.results import Result
from rag_clip.evaluation.tiers import describe_tier
from rag_clip.metrics.difference import Difference
from rag_clip.protocols import Encoder
from rag_clip.report.class_charts import draw_confusions, draw_gains
from rag_clip.report.examples import Changes, Example, answers, find_changes, find_confused
from rag_clip.report.page import figure, paragraph, piece, section
from rag_clip.report.shown import Shown, first_and_best

CONFUSED = 16
MOST_PAIRS = 6
LEAST_PROBABILITY = 1e-9


def confusions(kept: Sequence[Shown]) -> Markup:
    """Return the confusion matrices of the first run and the best other one; the runs must have their images."""
    labels = kept[0].result.labels
    assert labels is not None
    matrices = {run.name(): _matrix(run.result, len(labels)) for run in first_and_best(kept)}
    classes = _confused(np.sum(list(matrices.values()), axis=0))
    if not classes:
        return Markup()
    parts = {run: matrix[np.ix_(classes, classes)] for run, matrix in matrices.items()}
    drawn = " For shots, the first draw is shown." if any(run.result.settings.low_high for run in kept) else ""
    worst = list(matrices)[-1]
    seen = first_and_best(kept)[-1].result
    pairs = _pairs(matrices[worst])
    examples = find_confused(seen, [pair for pair, _ in pairs])
    shown = [
        {
            "picture": picture,
            "label": labels.names[label],
            "answer": labels.names[answer],
            "count": counted(count, "image"),
            "run": worst,
        }
        for ((label, answer), count), picture in zip(pairs, examples, strict=True)
    ]
    return section(
        "Which classes are confused",
        f"The classes of the most frequent confusions in {' and '.join(matrices)} together; cells count images, blue "
        f"is right, red is wrong.{drawn}",
        figure(draw_confusions(parts, [labels.names[row] for row in classes]), "Confusions.")
        + (piece("confused", shown) if any(examples) else Markup()),
    )


def _pairs(matrix: np.ndarray) -> list[tuple[tuple[int, int], int]]:
    """Return the MOST_PAIRS most frequent confusions, label and answer, with the number of images."""
    wrong = matrix - np.diag(np.diag(matrix))
    cells = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS].tolist()
    return [(divmod(cell, len(matrix)), int(wrong.flat[cell])) for cell in cells if wrong.flat[cell]]


def _confused(matrix: np.ndarray) -> list[int]:
    """Return up to CONFUSED classes of the most frequent confusions, with the two classes of a pair side by side."""
    wrong = matrix - np.diag(np.diag(matrix))
    classes: dict[int, None] = {}
    for cell in np.argsort(-wrong, axis=None, kind="stable"):
        label, prediction = divmod(int(cell), len(matrix))
        if wrong[label, prediction] == 0 or len(classes.keys() | {label, prediction}) > CONFUSED:
            break
        classes |= {label: None, prediction: None}
    return list(classes)


def change(before: Result, after: Result, encoder: Encoder | None, *, opened: bool) -> Markup:
    """Return how classes and images changed from one run to another; collapsed unless `opened`."""
    labels, paired = after.labels, difference(before, after)
    assert labels is not None
    recalls = [run.series("recall") for run in (before, after)]
    names = [name for name in labels.names if name in recalls[0] and name in recalls[1]]
    values = [np.array([recall[name] for name in names]) for recall in recalls]
    sentence = "" if paired is None else _sentence(before, after, paired)
    moved = bool((values[0] != values[1]).any())
    chart = figure(draw_gains(names, *values), "Gains by class.") if moved else paragraph("No class gains or loses.")
    changes = Changes((), ()) if paired is None else find_changes(before, after, encoder=encoder)
    shown = [_examples("Right only after", changes.gained), _examples("Right only before", changes.lost)]
    return piece("change", before, after, Markup().join([paragraph(sentence), chart, *shown]), opened)


def _sentence(before: Result, after: Result, change: Difference) -> str:
    likely = f"{change.probability:.2g}" if change.probability >= LEAST_PROBABILITY else f"below {LEAST_PROBABILITY}"
    used = f"{before.run} used {describe_tier(before.tier)}; {after.run} {describe_tier(after.tier)}"
    unlike = "" if before.tier == after.tier else f" The runs have different tiers: {used}."
    return (
        f"{after.run} is right on {counted(change.gained, 'image')} that {before.run} got wrong, and wrong on "
        f"{change.lost} that it got right: {change.value:+.1%} ({change.low:+.1%} … {change.high:+.1%}). If neither "
        f"were better, a split at least this uneven would have probability {likely}.{unlike}"
    )


def _examples(title: str, examples: Sequence[Example]) -> Markup:
    if not examples:
        return Markup()
    if not any(example.picture for example in examples):
        return paragraph(f"{title}: the image files are missing, so none is shown.", small=True)
    return piece("examples", title, examples)


def _matrix(result: Result, classes: int) -> np.ndarray:
    table = answers(result)
    cells = table["target"].to_numpy().astype(np.int64) * classes + table["predicted"].to_numpy()
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)  # [c, c], label by prediction

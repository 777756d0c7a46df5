"""A summary of predictions, updated during a run: images per class, mean score, and the rows with the lowest scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest

import pyarrow as pa
import pyarrow.compute as pc

LOWEST = 5


@dataclass(frozen=True, slots=True)
class Unsure:
    """A row number of the output, from 0, with its label and score."""

    row: int
    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Predicted:
    """Images per class, most first, without unused classes; the mean score (None without images); the lowest scores."""

    classes: Mapping[str, int]
    mean_score: float | None
    lowest: tuple[Unsure, ...]


@dataclass(slots=True)
class Tally:
    """Sums predictions in the order of the rows."""

    rows: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    total: float = 0.0
    lowest: list[Unsure] = field(default_factory=list)

    def add(self, labels: pa.Array, scores: pa.Array) -> None:
        """Add the labels [n] and scores [n] of the next rows; those without a label are left out."""
        first, self.rows = self.rows, self.rows + len(labels)
        scores = pc.if_else(labels.is_valid(), scores, None)
        self.classes.update(labels.drop_null().to_pylist())
        self.total += pc.sum(scores.cast(pa.float64())).as_py() or 0.0
        least = pc.array_sort_indices(scores, order="ascending", null_placement="at_end")[:LOWEST].to_pylist()
        lowest = [
            Unsure(first + row, labels[row].as_py(), scores[row].as_py()) for row in least if scores[row].is_valid
        ]
        self.lowest = nsmallest(LOWEST, [*self.lowest, *lowest], key=lambda each: (each.score, each.row))

    def report(self, order: Sequence[str]) -> Predicted:
        """Return the summary; classes with equal numbers of images are in the `order` of the label set."""
        images = self.classes.total()
        counts = {name: self.classes[name] for name in order if name in self.classes}
        ranked = dict(sorted(counts.items(), key=lambda each: -each[1]))
        return Predicted(ranked, self.total / images if images else None, tuple(self.lowest))

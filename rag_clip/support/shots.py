"""k labelled images per class, for few-shot classifiers, and a few more as the validation set.

The protocol of CoOp (Zhou et al., 2022, arXiv 2109.01134), also used by Tip-Adapter and TIP-X: k images of every class,
drawn without replacement, and min(k, 4) others of every class for validation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from rag_clip.display import counted

MOST_VALIDATION = 4
ValidationShots = Literal["min(k,4)", "none"]


@dataclass(frozen=True, slots=True)
class Shots:
    """Row numbers drawn for `support` and `validation`, class by class.

    `short` maps classes with fewer than k rows to their number of rows; all of these are in the support set.
    """

    support: tuple[int, ...]
    validation: tuple[int, ...]
    short: Mapping[str, int]


def choose_shots(labels: Sequence[str], *, k: int, seed: int = 0, validation: ValidationShots = "min(k,4)") -> Shots:
    """Draw k rows of each class, and min(k, 4) others for validation; `labels` names the class of each row.

    Classes come in the order of their first row, rows of a class in the order drawn. The draw of a class depends only
    on its name, its rows and `seed`, so k shots are the first k of k + 1 shots. Rows without a label ('') are never
    drawn. Raises ValueError for k below 1 and where no row has a label.
    """
    if k < 1:
        raise ValueError(f"k is {k}; draw at least one image per class")
    if validation not in get_args(ValidationShots):
        raise ValueError(f"unknown validation {validation!r}; known are {', '.join(get_args(ValidationShots))}")
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(labels):
        if name:
            rows.setdefault(name, []).append(row)
    if not rows:
        raise ValueError(f"none of the {counted(len(labels), 'row')} has a label; name the column that holds them")
    support: list[int] = []
    others: list[int] = []
    for name, own in rows.items():
        drawn = [own[position] for position in _order(name, len(own), seed)]
        support += drawn[:k]
        # Taken from the end, so that k and k + 1 shots have nearly the same validation images.
        others += drawn[max(k, len(drawn) - min(k, MOST_VALIDATION)) :]
    short = {name: len(own) for name, own in rows.items() if len(own) < k}
    return Shots(tuple(support), tuple(others) if validation == "min(k,4)" else (), short)


def choose_shared_shots(labels: Sequence[Sequence[str]], *, k: int, seed: int = 0) -> Shots:
    """Draw rows of a multi-label set until every class has k rows, or all of its rows; without validation.

    `labels` names the classes of each row. A row counts for all of its classes, so classes that occur together may get
    more than k. The draw is greedy, in k rounds: in round r, each class with fewer than r rows takes the next in its
    own order, the rarest class first. So k shots are the first of k + 1 shots, and with one label per row the draw is
    that of `choose_shots`. Raises as `choose_shots`.
    """
    if k < 1:
        raise ValueError(f"k is {k}; draw at least one image per class")
    rows: dict[str, list[int]] = {}
    for row, names in enumerate(labels):
        for name in names:
            rows.setdefault(name, []).append(row)
    if not rows:
        raise ValueError(f"none of the {counted(len(labels), 'row')} has a label; name the column that holds them")
    rarest = sorted(rows, key=lambda name: (len(rows[name]), name))
    left = {name: iter([rows[name][position] for position in _order(name, len(rows[name]), seed)]) for name in rarest}
    drawn: dict[int, None] = {}
    counts = Counter[str]()
    for needed in range(1, k + 1):
        for name in rarest:
            if counts[name] < min(needed, len(rows[name])):
                row = next(row for row in left[name] if row not in drawn)
                drawn[row] = None
                counts.update(labels[row])
    short = {name: len(own) for name, own in rows.items() if len(own) < k}
    return Shots(tuple(drawn), (), short)


def _order(name: str, count: int, seed: int) -> list[int]:
    # The name is part of the seed, so the draw of a class does not depend on the other classes.
    order: list[int] = np.random.default_rng([seed, *name.encode()]).permutation(count).tolist()
    return order

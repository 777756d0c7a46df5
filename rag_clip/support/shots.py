"""k labelled images per class, as few-shot classifiers are measured with, and a few more to choose settings by.

The protocol of CoOp (Zhou et al., 2022, arXiv 2109.01134), which Tip-Adapter and TIP-X follow: k images of every class
drawn without replacement, and min(k, 4) others of every class as the validation set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

MOST_VALIDATION = 4
ValidationShots = Literal["min(k,4)", "none"]


@dataclass(frozen=True, slots=True)
class Shots:
    """Row numbers drawn for `support` and `validation`, class by class; `short` maps classes to the rows they had.

    A class is short where it had fewer than k rows; it gave all it had to the support.
    """

    support: tuple[int, ...]
    validation: tuple[int, ...]
    short: Mapping[str, int]


def choose_shots(labels: Sequence[str], *, k: int, seed: int = 0, validation: ValidationShots = "min(k,4)") -> Shots:
    """Draw k rows of each class, and for validation min(k, 4) others, of the classes named in `labels`, one per row.

    Classes come in the order of their first row; rows of a class in the order drawn. What is drawn of a class depends
    on its rows and `seed` alone, so k shots are the first of k + 1. Rows without a label ('') are never drawn. Raises
    ValueError for k below 1 and where no row has a label.
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
        raise ValueError(f"none of the {len(labels)} rows has a label; name the column that holds them")
    support: list[int] = []
    others: list[int] = []
    for name, held in rows.items():
        drawn = [held[place] for place in _order(name, len(held), seed)]
        support += drawn[:k]
        # Counted from the end, so that k and k + 1 shots are validated by nearly the same images.
        others += drawn[max(k, len(drawn) - min(k, MOST_VALIDATION)) :]
    short = {name: len(held) for name, held in rows.items() if len(held) < k}
    return Shots(tuple(support), tuple(others) if validation == "min(k,4)" else (), short)


def choose_shared_shots(labels: Sequence[Sequence[str]], *, k: int, seed: int = 0) -> Shots:
    """Draw rows until every class named in `labels`, any number per row, has k, or all it has; without validation.

    A row counts for all of its classes, so those that go with others get more than k. Greedily, in k rounds: in round
    r each class that has fewer than r rows takes the next of its own order, the rarest class first. So k shots are the
    first of k + 1, and of rows with one label each the same are drawn as by `choose_shots`. Raises as `choose_shots`.
    """
    if k < 1:
        raise ValueError(f"k is {k}; draw at least one image per class")
    rows: dict[str, list[int]] = {}
    for row, names in enumerate(labels):
        for name in names:
            rows.setdefault(name, []).append(row)
    if not rows:
        raise ValueError(f"none of the {len(labels)} rows has a label; name the column that holds them")
    rarest = sorted(rows, key=lambda name: (len(rows[name]), name))
    left = {name: iter([rows[name][place] for place in _order(name, len(rows[name]), seed)]) for name in rarest}
    drawn: dict[int, None] = {}
    counts = Counter[str]()
    for needed in range(1, k + 1):
        for name in rarest:
            if counts[name] < min(needed, len(rows[name])):
                row = next(row for row in left[name] if row not in drawn)
                drawn[row] = None
                counts.update(labels[row])
    short = {name: len(held) for name, held in rows.items() if len(held) < k}
    return Shots(tuple(drawn), (), short)


def _order(name: str, count: int, seed: int) -> list[int]:
    # The name is part of the seed: a class draws the same rows whichever other classes there are.
    order: list[int] = np.random.default_rng([seed, *name.encode()]).permutation(count).tolist()
    return order

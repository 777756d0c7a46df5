"""Which runs the charts show, in which colour, and under which name: never without the tier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rag_clip.evaluation.results import Result

COLOURS = ("#5b6b7c", "#0b66b0", "#1b8a5a", "#d97a1d", "#8450a8", "#c2334d", "#1a9aa8", "#8a6a3b")
PALE = "#b4bfca"
MOST_RUNS = len(COLOURS)


@dataclass(frozen=True, slots=True)
class Shown:
    """A run as charts show it."""

    result: Result
    colour: str

    def name(self, limit: int = 34) -> str:
        """The run, cut where it is longer than `limit`, and its whole tier."""
        return f"{shorten(self.result.run, limit)} [{self.result.tier}]"


def choose_shown(results: Sequence[Result], most: int = MOST_RUNS) -> list[Result]:
    """Return all runs where they are few; else the first, and others spread evenly from the best to the worst.

    Texts without a head, where they are few, are all among them: it is they that heads are compared with.
    """
    if len(results) <= most:
        return list(results)
    alone = [one for one in results[1:] if one.settings.head is None]
    kept = [results[0], *(alone if len(alone) < most // 2 else ())]
    others = [one for one in results if all(one is not each for each in kept)]
    ranked = sorted(others, key=lambda one: -one.main.value)
    left = most - len(kept)
    return [*kept, *(ranked[round(step * (len(ranked) - 1) / (left - 1))] for step in range(left))]


def paint(results: Sequence[Result]) -> list[Shown]:
    """Return the runs to show, each in a colour of its own."""
    return [Shown(one, colour) for one, colour in zip(choose_shown(results), COLOURS, strict=False)]


def first_and_best(shown: Sequence[Shown]) -> list[Shown]:
    """Return the first run and the best of the others, where there are others."""
    return [shown[0], *sorted(shown[1:], key=lambda one: -one.result.main.value)[:1]]


def holding(shown: Sequence[Shown], results: Sequence[Result], metric: str) -> list[Shown]:
    """Return the shown runs that have a metric; where none has, some of all runs that do, in colours of their own."""
    held = [one for one in shown if _has(one.result, metric)]
    return held or paint([one for one in results if _has(one, metric)])


def shorten(name: str, limit: int = 22) -> str:
    """Cut a long name in its middle: names that begin alike often end apart."""
    head = (limit + 1) // 2
    return name if len(name) <= limit else f"{name[:head].rstrip()}…{name[head + 1 - limit :].lstrip()}"


def _has(result: Result, metric: str) -> bool:
    return any(one.metric == metric for one in result.measures)

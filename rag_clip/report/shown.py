"""The runs that charts show, with their colours, and names that always include the tier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rag_clip.evaluation.results import Result
from rag_clip.evaluation.tiers import short_tier

COLOURS = ("#5b6b7c", "#0b66b0", "#1b8a5a", "#d97a1d", "#8450a8", "#c2334d", "#1a9aa8", "#8a6a3b")
PALE = "#b4bfca"
MOST_RUNS = len(COLOURS)


@dataclass(frozen=True, slots=True)
class Shown:
    """A run with its colour in charts."""

    result: Result
    colour: str

    def name(self, limit: int = 34) -> str:
        """Return the run's name, shortened to `limit` characters, and its tier in words."""
        return f"{shorten(self.result.run, limit)} [{short_tier(self.result.tier)}]"


def choose_shown(results: Sequence[Result], most: int = MOST_RUNS) -> list[Result]:
    """Return up to `most` runs: the first, and others spread evenly from the best to the worst.

    If there are few texts without a head, all of them are included, because heads are compared with them.
    """
    if len(results) <= most:
        return list(results)
    alone = [result for result in results[1:] if result.settings.head is None]
    kept = [results[0], *(alone if len(alone) < most // 2 else ())]
    others = [result for result in results if all(result is not each for each in kept)]
    ranked = sorted(others, key=lambda result: -result.main.value)
    left = most - len(kept)
    return [*kept, *(ranked[round(step * (len(ranked) - 1) / (left - 1))] for step in range(left))]


def paint(results: Sequence[Result]) -> list[Shown]:
    """Return the runs to show, each with its own colour."""
    return [Shown(result, colour) for result, colour in zip(choose_shown(results), COLOURS, strict=False)]


def first_and_best(shown: Sequence[Shown]) -> list[Shown]:
    """Return the first run and, if there are others, the best of them."""
    return [shown[0], *sorted(shown[1:], key=lambda run: -run.result.main.value)[:1]]


def holding(shown: Sequence[Shown], results: Sequence[Result], metric: str) -> list[Shown]:
    """Return the shown runs that have a metric; if none has, some of all runs that do, in new colours."""
    having = [run for run in shown if _has(run.result, metric)]
    return having or paint([result for result in results if _has(result, metric)])


def shorten(name: str, limit: int = 22) -> str:
    """Shorten a long name in its middle, because names with the same beginning often differ at the end."""
    head = (limit + 1) // 2
    return name if len(name) <= limit else f"{name[:head].rstrip()}…{name[head + 1 - limit :].lstrip()}"


def _has(result: Result, metric: str) -> bool:
    return any(measure.metric == metric for measure in result.measures)

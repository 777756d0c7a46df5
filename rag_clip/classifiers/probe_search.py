"""The search for a learning rate and a weight decay that ELEVATER publishes, around any way to score the two.

Li et al., NeurIPS 2022 (arXiv 2204.08790): the rate is a power of ten from 1e-6 to 1e-1. Weight decay is one of 97
values, eight to a decade from 1e-6 to 1e6: for each rate every sixteenth is tried, then the two neighbours of the best
at 8, 4, 2 and 1 places, each time from the best so far. At most 15 trials a rate, 90 in all. Their first release always
went to the lower neighbour; this is the search as corrected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from rag_clip.progress import Progress, Report, silent

RATES = tuple(10.0**power for power in range(-6, 0))
WEIGHT_DECAYS = tuple(10 ** (place / 8 - 6) for place in range(97))
FIRST = range(0, len(WEIGHT_DECAYS), 16)
STEPS = (8, 4, 2, 1)
Score = tuple[float, float]
NOTHING: Score = (0.0, float("-inf"))


@dataclass(frozen=True, slots=True)
class Best:
    """The settings with the greatest score, the first of equals; scores are compared by their parts in order."""

    rate: float
    weight_decay: float
    score: Score


def search_rates(
    score: Callable[[float, float], Score],
    *,
    rate: float | None = None,
    weight_decay: float | None = None,
    report: Report = silent,
) -> Best:
    """Return the best of the rates and weight decays tried by `score(rate, weight_decay)`; what is given stays.

    No pair is scored twice.
    """
    trials: dict[tuple[float, float], Score] = {}
    rates = RATES if rate is None else (rate,)
    most = len(rates) * (len(FIRST) + 2 * len(STEPS) if weight_decay is None else 1)

    def attempt(rate: float, weight_decay: float) -> Score:
        pair = rate, weight_decay
        if pair not in trials:
            trials[pair] = score(*pair)
            report(Progress("tune", len(trials), most, "trials"))
        return trials[pair]

    for each in rates:
        if weight_decay is None:
            _climb(partial(attempt, each))
        else:
            attempt(each, weight_decay)
    best = max(trials, key=trials.__getitem__)
    return Best(*best, trials[best])


def _climb(attempt: Callable[[float], Score]) -> None:
    def at(place: int) -> Score:
        return attempt(WEIGHT_DECAYS[place])

    best = max(FIRST, key=at)
    for step in STEPS:
        near = (best, best - step, best + step)
        best = max((place for place in near if 0 <= place < len(WEIGHT_DECAYS)), key=at)

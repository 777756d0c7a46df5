"""Intervals by the bootstrap, and of shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch

DRAWS = 1000
COVERAGE = 0.95
CELLS = 400_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured `value` and its interval: the percentiles of its bootstrap (Efron, 1979), unless said otherwise."""

    value: float
    low: float
    high: float


def mean_interval(
    values: torch.Tensor,
    *,
    strata: torch.Tensor | None = None,
    draws: int = DRAWS,
    coverage: float = COVERAGE,
    seed: int = 0,
) -> Interval:
    """Return the interval of the mean of `values` [n], numbers per image such as right or wrong.

    With `strata` int64 [n], for example the targets, the value is the mean over strata of their means, and images are
    drawn within their stratum: the interval of a mean per class. A stratum of k images draws k - 1, for drawing k would
    make its variance (k - 1) / k of what it is (McCarthy & Snowden, 1985); one of a single image shows none.
    The draws of bool values are counted, not made: how many are right is binomial.
    Raises ValueError for no image, and draws or coverage out of range.
    """
    _check(len(values), draws, coverage)
    layers = _layers(strata, len(values))
    generator = torch.Generator().manual_seed(seed)
    numbers = values.cpu().double()
    names = torch.arange(len(layers.sizes)).repeat_interleave(layers.sizes)
    means = torch.bincount(names, weights=numbers[layers.order]) / layers.sizes
    if values.dtype == torch.bool:
        takes = layers.takes.double().expand(draws, -1)
        drawn = torch.binomial(takes, means.expand(draws, -1), generator=generator) / takes
        return _interval(float(means.mean()), drawn.mean(1), coverage)
    weights = (1.0 / (layers.takes.double() * len(layers.takes))).repeat_interleave(layers.takes)
    found = []
    for done in range(0, draws, step := max(1, CELLS // len(weights))):
        found.append(numbers[layers.draw(min(step, draws - done), generator)] @ weights)
    return _interval(float(means.mean()), torch.cat(found), coverage)


def share_interval(right: int, total: int, *, coverage: float = COVERAGE) -> Interval:
    """Return the interval of `right` of `total` by Wilson's score (1927), which holds for few images, and none right.

    Raises ValueError for no image, and coverage out of range.
    """
    _check(total, 1, coverage)
    share, square = right / total, NormalDist().inv_cdf((1 + coverage) / 2) ** 2
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = math.sqrt(square * share * (1 - share) / total + (square / (2 * total)) ** 2) / (1 + square / total)
    # Rounding may put a bound that is the share itself beyond it.
    return Interval(share, max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)))


def bootstrap(
    measure: Callable[[torch.Tensor], Sequence[float]],
    count: int,
    *,
    strata: torch.Tensor | None = None,
    draws: int = 200,
    coverage: float = COVERAGE,
    seed: int = 0,
) -> tuple[Interval, ...]:
    """Return the intervals of any measures of `count` images: `measure` gets rows, int64 on the CPU, and returns them.

    With `strata` int64 [count], rows are drawn within their stratum, as in `mean_interval`, which is faster for means.
    A draw in which a measure is NaN is left out of its percentiles.
    Raises ValueError for no image, and draws or coverage out of range.
    """
    values, drawn = _measure_draws(measure, count, strata, draws, coverage, seed)
    return tuple(_interval(value, column, coverage) for value, column in zip(values, drawn, strict=True))


def bootstrap_corrected(
    measure: Callable[[torch.Tensor], Sequence[float]],
    count: int,
    *,
    draws: int = 200,
    coverage: float = COVERAGE,
    seed: int = 0,
) -> tuple[Interval, ...]:
    """Return intervals as `bootstrap` does of measures in [0, 1] that few images make too great, or too small.

    What the draws have too much of, the images measured have had before them: the percentiles are moved by twice the
    mean's distance from the value, towards the truth (Efron & Tibshirani, 1993, chapter 10, for the bias). The interval
    holds the value in any case.
    """
    values, drawn = _measure_draws(measure, count, None, draws, coverage, seed)
    found = []
    for value, column in zip(values, drawn, strict=True):
        moved = _interval(value, column - 2 * (column.nanmean() - value), coverage)
        found.append(Interval(value, max(0.0, min(value, moved.low)), min(1.0, max(value, moved.high))))
    return tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class _Layers:
    """Images by stratum: `order` [n] puts them together, `sizes` [s] are how many there are, `takes` [s] are drawn.

    Every image drawn is one of `size` from the place `start` on.
    """

    order: torch.Tensor
    sizes: torch.Tensor
    takes: torch.Tensor
    size: torch.Tensor
    start: torch.Tensor

    def draw(self, times: int, generator: torch.Generator) -> torch.Tensor:
        """Return rows, int64 [times, the sum of takes]."""
        drawn = torch.rand((times, len(self.size)), generator=generator, dtype=torch.float64)
        # Rounding may reach the end of a stratum: 0.99... x size.
        return self.order[self.start + (drawn * self.size).long().clamp(max=self.size - 1)]


def _layers(strata: torch.Tensor | None, count: int) -> _Layers:
    if strata is None:
        order, sizes = torch.arange(count), torch.tensor([count])
        takes = sizes
    else:
        order, sizes = strata.cpu().argsort(stable=True), torch.bincount(strata.cpu())
        sizes = sizes[sizes > 0]
        takes = (sizes - 1).clamp(min=1)
    starts = sizes.cumsum(0) - sizes
    return _Layers(order, sizes, takes, sizes.repeat_interleave(takes), starts.repeat_interleave(takes))


def _measure_draws(
    measure: Callable[[torch.Tensor], Sequence[float]],
    count: int,
    strata: torch.Tensor | None,
    draws: int,
    coverage: float,
    seed: int,
) -> tuple[list[float], torch.Tensor]:
    """Return the k measures of all images, and those of each draw, float64 [k, draws]."""
    _check(count, draws, coverage)
    layers = _layers(strata, count)
    generator = torch.Generator().manual_seed(seed)
    found = [measure(layers.draw(1, generator)[0]) for _ in range(draws)]
    return list(measure(torch.arange(count))), torch.tensor(found, dtype=torch.float64).T


def _check(count: int, draws: int, coverage: float) -> None:
    if count < 1:
        raise ValueError("there is no image; an interval needs at least one")
    if draws < 1 or not 0 < coverage < 1:
        raise ValueError(f"draws is {draws} and coverage {coverage}; give draws >= 1 and 0 < coverage < 1")


def _interval(value: float, drawn: torch.Tensor, coverage: float) -> Interval:
    tail = (1 - coverage) / 2
    low, high = drawn.nanquantile(drawn.new_tensor([tail, 1 - tail])).tolist()
    return Interval(value, low, high)

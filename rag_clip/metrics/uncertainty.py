"""Confidence intervals: bootstrap intervals of any measure, and Wilson's interval of a share."""

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
    """A measured `value` and its interval: bootstrap percentiles (Efron, 1979) unless stated otherwise."""

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
    cells: int = CELLS,
) -> Interval:
    """Return the interval of the mean of `values` [n], one number per image, such as right or wrong.

    strata: int64 [n], for example the targets. The value is then the mean over strata of their means, and images are
        resampled within their stratum: the interval of a mean per class. A stratum of k images draws k - 1, because k
        draws would underestimate the variance by the factor (k - 1) / k (McCarthy & Snowden, 1985). A stratum of a
        single image adds no variance.
    draws, seed: number of bootstrap samples and their seed.
    coverage: of the interval, in (0, 1).

    For bool values the number of right images is drawn from a binomial distribution, without resampling rows. Of other
    values about `cells` are drawn at once.
    Raises ValueError for no image, and draws or coverage out of range.
    """
    _check(len(values), draws, coverage)
    layers = _layers(strata, len(values))
    generator = torch.Generator().manual_seed(seed)
    numbers = values.cpu().double()
    stratum = torch.arange(len(layers.sizes)).repeat_interleave(layers.sizes)  # [n]
    means = torch.bincount(stratum, weights=numbers[layers.order]) / layers.sizes  # [s]
    if values.dtype == torch.bool:
        takes = layers.takes.double().expand(draws, -1)  # [draws, s]
        drawn = torch.binomial(takes, means.expand(draws, -1), generator=generator) / takes
        return _interval(float(means.mean()), drawn.mean(1), coverage)
    weights = (1.0 / (layers.takes.double() * len(layers.takes))).repeat_interleave(layers.takes)
    found = []
    for done in range(0, draws, step := max(1, cells // len(weights))):
        found.append(numbers[layers.draw(min(step, draws - done), generator)] @ weights)
    return _interval(float(means.mean()), torch.cat(found), coverage)


def share_interval(right: int, total: int, *, coverage: float = COVERAGE) -> Interval:
    """Return Wilson's score interval (1927) of `right` out of `total`; valid for few images, and for none right.

    Raises ValueError for no image, and coverage out of range.
    """
    _check(total, 1, coverage)
    share, square = right / total, NormalDist().inv_cdf((1 + coverage) / 2) ** 2
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = math.sqrt(square * share * (1 - share) / total + (square / (2 * total)) ** 2) / (1 + square / total)
    # With a share of 0 or 1 a bound equals the share, and rounding may push it past.
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
    """Return bootstrap intervals of any measures of `count` images; for means `mean_interval` is faster.

    measure: gets the rows of a sample, int64 on the CPU, and returns the measures.
    strata: int64 [count]; rows are resampled within their stratum, as in `mean_interval`.
    draws, seed: number of bootstrap samples and their seed. A sample in which a measure is NaN is ignored for it.
    coverage: of the intervals, in (0, 1).

    Raises ValueError for no image, and draws or coverage out of range.
    """
    values, drawn = _measure_draws(_one_by_one(measure), count, strata, draws, coverage, seed)
    return tuple(_interval(value, column, coverage) for value, column in zip(values, drawn, strict=True))


def bootstrap_together(
    measure: Callable[[torch.Tensor], torch.Tensor],
    count: int,
    *,
    draws: int = 200,
    coverage: float = COVERAGE,
    seed: int = 0,
) -> Interval:
    """Return what `bootstrap` does for a measure that takes many samples at once, which is faster for few images.

    `measure` gets the rows of s samples of D images, int64 [s, D] on the CPU, and returns float64 [s].
    """
    values, drawn = _measure_draws(lambda rows: measure(rows)[:, None], count, None, draws, coverage, seed)
    return _interval(values[0], drawn[0], coverage)


def bootstrap_corrected(
    measure: Callable[[torch.Tensor], Sequence[float]],
    count: int,
    *,
    draws: int = 200,
    coverage: float = COVERAGE,
    seed: int = 0,
) -> tuple[Interval, ...]:
    """Return bias-corrected intervals, otherwise as `bootstrap`, of measures in [0, 1] that are biased in few images.

    The bias of the bootstrap mean against the value estimates the bias of the value against the truth, so percentiles
    are moved by twice that bias (Efron & Tibshirani, 1993, chapter 10). The interval always contains the value.
    """
    values, drawn = _measure_draws(_one_by_one(measure), count, None, draws, coverage, seed)
    found = []
    for value, column in zip(values, drawn, strict=True):
        moved = _interval(value, column - 2 * (column.nanmean() - value), coverage)
        found.append(Interval(value, max(0.0, min(value, moved.low)), min(1.0, max(value, moved.high))))
    return tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class _Layers:
    """Images sorted by stratum, and how a bootstrap sample of D = sum(takes) images is drawn.

    order: rows sorted by stratum, [n].
    sizes, takes: images in each stratum, and images drawn from it, [s].
    size, start: for each image drawn, the size of its stratum and its first position in `order`, [D].
    """

    order: torch.Tensor
    sizes: torch.Tensor
    takes: torch.Tensor
    size: torch.Tensor
    start: torch.Tensor

    def draw(self, times: int, generator: torch.Generator) -> torch.Tensor:
        """Return rows, int64 [times, D]."""
        drawn = torch.rand((times, len(self.size)), generator=generator, dtype=torch.float64)
        # 0.99... x size may round up to size, which is outside the stratum.
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
    measure: Callable[[torch.Tensor], torch.Tensor],
    count: int,
    strata: torch.Tensor | None,
    draws: int,
    coverage: float,
    seed: int,
) -> tuple[list[float], torch.Tensor]:
    """Return the k measures of all images, and of each bootstrap sample, float64 [k, draws].

    `measure` gets the rows of several samples, int64 [s, D], and returns float64 [s, k].
    """
    _check(count, draws, coverage)
    layers = _layers(strata, count)
    generator = torch.Generator().manual_seed(seed)
    found: list[torch.Tensor] = []
    for done in range(0, draws, step := max(1, CELLS // count)):
        found.append(measure(layers.draw(min(step, draws - done), generator)))
    return measure(torch.arange(count)[None])[0].tolist(), torch.cat(found).T


def _one_by_one(measure: Callable[[torch.Tensor], Sequence[float]]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda samples: torch.tensor([measure(rows) for rows in samples], dtype=torch.float64)


def _check(count: int, draws: int, coverage: float) -> None:
    if count < 1:
        raise ValueError("there is no image; an interval needs at least one")
    if draws < 1 or not 0 < coverage < 1:
        raise ValueError(f"draws is {draws} and coverage {coverage}; give draws >= 1 and 0 < coverage < 1")


def _interval(value: float, drawn: torch.Tensor, coverage: float) -> Interval:
    tail = (1 - coverage) / 2
    low, high = drawn.nanquantile(drawn.new_tensor([tail, 1 - tail])).tolist()
    return Interval(value, low, high)

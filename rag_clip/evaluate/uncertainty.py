"""Intervals by the bootstrap, and the difference of two runs on the same images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

DRAWS = 1000
COVERAGE = 0.95
CELLS = 20_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured `value` and the percentile interval of its bootstrap (Efron, 1979)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """The second run less the first: accuracy with its interval, and how many images rose and fell.

    `probability` is that of a change as uneven as this one, or more, if neither run were better (exact sign test, which
    is McNemar's where an image is right or wrong).
    """

    value: float
    low: float
    high: float
    gained: int
    lost: int
    probability: float


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
    drawn within their stratum: the interval of a mean per class. Raises ValueError for no image, and draws or coverage
    out of range.
    """
    _check(len(values), draws, coverage)
    sizes = torch.tensor([len(values)], device=values.device)
    ordered = values.double()
    if strata is not None:
        order = strata.argsort(stable=True)
        sizes = torch.bincount(strata)
        sizes, ordered = sizes[sizes > 0], ordered[order]
    size = sizes.repeat_interleave(sizes)
    start = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    weights = 1.0 / (size.double() * len(sizes))
    generator = torch.Generator().manual_seed(seed)
    means = []
    for done in range(0, draws, step := max(1, CELLS // len(values))):
        shape = (min(step, draws - done), len(values))
        drawn = torch.rand(shape, generator=generator, dtype=torch.float64).to(values.device)
        # Rounding may reach the end of a stratum: 0.99... x size.
        places = start + (drawn * size).long().clamp(max=size - 1)
        means.append(ordered[places] @ weights)
    return _interval(float(ordered @ weights), torch.cat(means), coverage)


def bootstrap(
    measure: Callable[[torch.Tensor], float],
    count: int,
    *,
    draws: int = 200,
    coverage: float = COVERAGE,
    seed: int = 0,
) -> Interval:
    """Return the interval of any measure of `count` images; `measure` gets the rows drawn, int64 [count], on the CPU.

    Means are faster by `mean_interval`. Raises ValueError for no image, and draws or coverage out of range.
    """
    _check(count, draws, coverage)
    generator = torch.Generator().manual_seed(seed)
    found = [measure(torch.randint(count, (count,), generator=generator)) for _ in range(draws)]
    return _interval(measure(torch.arange(count)), torch.tensor(found, dtype=torch.float64), coverage)


def paired_difference(
    first: torch.Tensor,
    second: torch.Tensor,
    *,
    strata: torch.Tensor | None = None,
    draws: int = DRAWS,
    coverage: float = COVERAGE,
    seed: int = 0,
) -> Difference:
    """Compare two runs on the same images, [n] each: bool (right or not) or numbers in [0, 1] (share of draws right).

    An image is gained where its number rises, lost where it falls; `strata` as in `mean_interval`. Raises ValueError
    where the two do not cover the same number of images, for numbers outside [0, 1] or NaN, and as `mean_interval`.
    """
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(
            f"the runs have shapes {tuple(first.shape)} and {tuple(second.shape)}; "
            "give one number per image, of the same images in the same order"
        )
    for name, run in (("first", first), ("second", second)):
        outside = ~((run >= 0) & (run <= 1))
        if bool(outside.any()):
            row = int(outside.nonzero()[0])
            raise ValueError(f"the {name} run has {run[row]} in row {row}; give bool or numbers in [0, 1]")
    change = second.double() - first.double()
    found = mean_interval(change, strata=strata, draws=draws, coverage=coverage, seed=seed)
    gained, lost = int((change > 0).sum()), int((change < 0).sum())
    return Difference(found.value, found.low, found.high, gained, lost, sign_probability(gained, lost))


def sign_probability(gained: int, lost: int) -> float:
    """Return the two-sided binomial probability of a split this uneven among gained + lost fair coins."""
    total, fewer = gained + lost, min(gained, lost)
    logs = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
        for k in range(fewer + 1)
    ]
    return min(1.0, 2 * sum(map(math.exp, logs)))


def _check(count: int, draws: int, coverage: float) -> None:
    if count < 1:
        raise ValueError("there is no image; an interval needs at least one")
    if draws < 1 or not 0 < coverage < 1:
        raise ValueError(f"draws is {draws} and coverage {coverage}; give draws >= 1 and 0 < coverage < 1")


def _interval(value: float, drawn: torch.Tensor, coverage: float) -> Interval:
    tail = (1 - coverage) / 2
    low, high = drawn.quantile(drawn.new_tensor([tail, 1 - tail])).tolist()
    return Interval(value, low, high)

"""The paired difference of two runs on the same images: its interval and its p-value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from rag_clip.metrics.uncertainty import COVERAGE, DRAWS, mean_interval


@dataclass(frozen=True, slots=True)
class Difference:
    """The second run minus the first: change of accuracy with its interval, and the images gained and lost.

    `probability` is the two-sided p-value of the exact sign test (McNemar's exact test where an image is right or
    wrong): how likely a split at least this uneven is if neither run is better.
    """

    value: float
    low: float
    high: float
    gained: int
    lost: int
    probability: float


def paired_difference(
    first: torch.Tensor,
    second: torch.Tensor,
    *,
    strata: torch.Tensor | None = None,
    draws: int = DRAWS,
    coverage: float = COVERAGE,
    seed: int = 0,
) -> Difference:
    """Compare two runs on the same images; an image is gained where its number rises and lost where it falls.

    first, second: bool [n] (right or not), or numbers [n] in [0, 1] (for example the share of draws that are right).
    strata, draws, coverage, seed: as in `mean_interval`.

    Raises ValueError where the runs do not cover the same number of images, for numbers outside [0, 1] or NaN, and as
    `mean_interval`.
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
    """Return the two-sided binomial probability of a split at least this uneven in gained + lost fair coin tosses."""
    # In logarithms, since the binomial coefficients overflow beyond about a thousand images.
    total, fewer = gained + lost, min(gained, lost)
    logs = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
        for k in range(fewer + 1)
    ]
    return min(1.0, 2 * sum(map(math.exp, logs)))

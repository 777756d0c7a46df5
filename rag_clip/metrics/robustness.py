"""Effective robustness: accuracy on shifted test sets beyond what accuracy on the first one foretells.

    E = a_shifted - s(b + m s^-1(a))      a: accuracy on the first set, s the logistic function, m and b a line

The line is fitted, by least squares of logits, to baselines measured on both sets (Taori et al., 2020, arXiv
2007.00644). With baselines of one accuracy it has the slope 1 and goes through their mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEAST = 1e-4
"""Shares are kept this far from 0 and 1, whose logits are infinite."""


def effective_robustness(
    first: Sequence[float],
    shifted: Sequence[float],
    *,
    baselines_first: Sequence[float],
    baselines_shifted: Sequence[float],
) -> np.ndarray:
    """Return E, float64 [n], of n runs by their accuracies in [0, 1] on both sets, and by those of the baselines.

    Raises ValueError for lists of different lengths, no baseline, and values outside [0, 1].
    """
    run, run_shifted = _shares(first, shifted)
    base, base_shifted = _shares(baselines_first, baselines_shifted)
    if not len(base):
        raise ValueError("there is no baseline; measure at least one on both sets")
    x, y = _logit(base), _logit(base_shifted)
    centred = x - x.mean()
    slope = centred @ y / (centred @ centred) if np.ptp(x) > 1e-9 else 1.0
    foretold = 1 / (1 + np.exp(-(y.mean() + slope * (_logit(run) - x.mean()))))
    expected: np.ndarray = run_shifted - foretold
    return expected


def _shares(first: Sequence[float], shifted: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(first, dtype=np.float64), np.asarray(shifted, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"there are {a.size} accuracies on the first set and {b.size} on the shifted one; give pairs")
    values = np.concatenate([a, b])
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("accuracies are shares from 0 to 1")
    return a, b


def _logit(shares: np.ndarray) -> np.ndarray:
    bounded = shares.clip(LEAST, 1 - LEAST)
    logits: np.ndarray = np.log(bounded / (1 - bounded))
    return logits

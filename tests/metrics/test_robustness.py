"""Effective robustness, by lines whose slopes are known."""

from __future__ import annotations

import numpy as np
import pytest

from rag_clip.metrics.robustness import effective_robustness


def share(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))


def test_runs_on_the_line_of_the_baselines_have_none() -> None:
    logits = np.array([-1.0, 0.5, 2.0])
    first, shifted = [share(x) for x in logits], [share(0.5 * x - 1) for x in logits]
    found = effective_robustness(
        [share(1.0), share(1.0)], [share(-0.5), 0.5], baselines_first=first, baselines_shifted=shifted
    )
    assert found == pytest.approx([0, 0.5 - share(-0.5)])


def test_one_baseline_gives_a_line_of_slope_one() -> None:
    found = effective_robustness([share(2.0)], [0.8], baselines_first=[share(1.0)], baselines_shifted=[share(0.0)])
    assert found == pytest.approx([0.8 - share(1.0)])
    (same,) = effective_robustness([1.0], [0.0], baselines_first=[1.0], baselines_shifted=[0.0])
    assert same == pytest.approx(0, abs=2e-4)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="there are 1 accuracies on the first set and 2"):
        effective_robustness([0.5], [0.5, 0.6], baselines_first=[0.5], baselines_shifted=[0.5])
    with pytest.raises(ValueError, match="there is no baseline"):
        effective_robustness([0.5], [0.5], baselines_first=[], baselines_shifted=[])
    with pytest.raises(ValueError, match="shares from 0 to 1"):
        effective_robustness([50.0], [0.5], baselines_first=[0.5], baselines_shifted=[0.5])

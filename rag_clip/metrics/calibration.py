"""How far the probabilities of a classifier can be trusted: calibration error, Brier score, risk against coverage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from rag_clip.metrics.accuracy import check_logits, is_right
from rag_clip.metrics.uncertainty import COVERAGE, DRAWS, Interval, bootstrap_together

NO_VARIANCE = 1e-30
STEPS = 80
ROWS = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """The reliability diagram: images binned by the probability of their prediction, bins of equal width.

    images: number of images per bin, int64 [bins].
    confidence, accuracy: their means per bin, float64 [bins]; NaN in an empty bin.
    """

    images: torch.Tensor
    confidence: torch.Tensor
    accuracy: torch.Tensor

    @property
    def error(self) -> float:
        """ECE: the mean over images of |accuracy - confidence| of their bin (Naeini et al., AAAI 2015)."""
        gaps = (self.accuracy - self.confidence).abs().nan_to_num()
        return float((gaps * self.images).sum() / self.images.sum())


def reliability(logits: torch.Tensor, targets: torch.Tensor, *, bins: int = 15) -> Reliability:
    """Bin images by their largest softmax probability; 15 bins as in Guo et al., ICML 2017, arXiv 1706.04599.

    Logits [n, c] must include the classifier's scale (its temperature). Raises ValueError for bins below 1 and as
    `check_logits`.
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}; ask for at least one")
    right = is_right(logits, targets).double()
    confidence = confidence_of(logits)
    bin_of = _bins(confidence, bins)  # [n]
    images = torch.bincount(bin_of, minlength=bins)  # [bins]
    totals = [torch.bincount(bin_of, weights=values, minlength=bins) for values in (confidence, right)]
    return Reliability(images, totals[0] / images, totals[1] / images)


def calibration_error(logits: torch.Tensor, targets: torch.Tensor, *, bins: int = 15) -> float:
    """Return the expected calibration error (`Reliability.error`)."""
    return reliability(logits, targets, bins=bins).error


def calibration_interval(
    confidence: torch.Tensor,
    right: torch.Tensor,
    *,
    bins: int = 15,
    draws: int = DRAWS,
    coverage: float = COVERAGE,
    seed: int = 0,
) -> Interval:
    """Return the expected calibration error with a confidence interval that allows for its bias.

    confidence: largest probability of each image, [n].
    right: whether the prediction is correct, bool [n].
    bins: bins of equal width, as in `reliability`.
    draws, seed: number of simulated samples, and the seed of their noise.
    coverage: of the interval, in (0, 1).

    A sum of |gaps| is biased upwards in a sample, and more so in a bootstrap of the sample: its percentiles would never
    include 0, even for a calibrated classifier. Instead the interval contains every true error e under which the
    measured value is plausible (hybrid resampling: Chuang & Lai, Statistica Sinica 10, 2000). For each e, the true gaps
    are the nearest ones to the measured gaps g_b that sum to e, with distances in units of the variances v_b:
    |mu_b| = max(|g_b| - t v_b, 0), the same t for all bins. Simulated gaps are normal with mean mu_b and variance v_b.
    The interval always contains the measured value.

    Raises ValueError as `risk_coverage`, and for bins below 1, draws below 1 and coverage outside (0, 1).
    """
    _check_confidence(confidence, right)
    if bins < 1 or draws < 1 or not 0 < coverage < 1:
        raise ValueError(
            f"bins is {bins}, draws {draws}, coverage {coverage}; give bins and draws >= 1, coverage in (0, 1)"
        )
    probability = confidence.cpu().double()
    bin_of, gap = _bins(probability, bins), right.cpu().double() - probability  # [n]
    means, squares = (torch.bincount(bin_of, weights=each, minlength=bins) / len(gap) for each in (gap, gap.square()))
    gaps, variances = means.abs(), (squares - means.square()).clamp(min=0) / len(gap)  # [bins]
    value, tail = float(gaps.sum()), (1 - coverage) / 2
    loose = variances > NO_VARIANCE
    if not bool(loose.any()):
        return Interval(value, value, value)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(draws, bins, generator=generator, dtype=torch.float64) * variances.sqrt()  # [draws, bins]

    def shrink(by: float) -> torch.Tensor:
        return (gaps - by * variances).clamp(min=0)

    def share_below(by: float) -> float:
        return float(((shrink(by) + noise).abs().sum(1) <= value).double().mean())

    # At the first end all gaps are 0; at the second the error is six standard deviations above the value.
    ends = float((gaps[loose] / variances[loose]).max()), -6 / math.sqrt(float(variances.sum()))
    low = _reach(lambda by: 1 - share_below(by) >= tail, ends[0])
    high = _reach(lambda by: share_below(by) >= tail, ends[1])
    return Interval(value, float(shrink(low).sum()), float(shrink(high).sum()))


def brier_scores(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the sum over classes of (probability - 1[label])^2 of each image, float64 [n] in [0, 2] (Brier, 1950)."""
    check_logits(logits, targets)
    parts = zip(_probabilities(logits), torch.split(targets[:, None].long(), ROWS), strict=True)
    return torch.cat([part.square().sum(1) - 2 * part.gather(1, own)[:, 0] + 1 for part, own in parts])


def brier_score(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the mean of `brier_scores` over the images."""
    return float(brier_scores(logits, targets).mean())


@dataclass(frozen=True, slots=True, eq=False)
class RiskCoverage:
    """`risk`: the error rate among the share `coverage` of images with the highest confidence, both float64 [n].

    `area` is the area under this curve (AURC).
    """

    coverage: torch.Tensor
    risk: torch.Tensor
    area: float


def risk_coverage(confidence: torch.Tensor, right: torch.Tensor) -> RiskCoverage:
    """Return the risk-coverage curve for `confidence` [n] and `right` bool [n]; the most confident images come first.

    `area` is AURC, the mean risk over the n coverages 1/n..1 (Geifman & El-Yaniv, NeurIPS 2017, arXiv 1705.08500).
    Images with equal confidence share their errors evenly, so the result does not depend on their order.
    Raises ValueError for no image, other shapes, and confidences that are not finite.
    """
    _check_confidence(confidence, right)
    falling = -confidence.double()
    start = torch.searchsorted(falling.sort().values, falling)  # [n] first rank of images with this confidence
    size = torch.bincount(start, minlength=len(right))
    wrong = torch.bincount(start, weights=(~right.bool()).double(), minlength=len(right)) / size
    answered = torch.arange(1, len(right) + 1, dtype=torch.float64, device=right.device)
    risk = wrong.repeat_interleave(size).cumsum(0) / answered
    return RiskCoverage(answered / len(right), risk, float(risk.mean()))


def risk_interval(
    confidence: torch.Tensor, right: torch.Tensor, *, draws: int = 200, coverage: float = COVERAGE, seed: int = 0
) -> Interval:
    """Return AURC with its bootstrap interval; raises as `risk_coverage` and `bootstrap`."""
    _check_confidence(confidence, right)
    falling = -confidence.cpu().double()
    start = torch.searchsorted(falling.sort().values, falling)  # [n]
    wrong = (~right.cpu().bool()).double()
    harmonic = torch.cat([wrong.new_zeros(1), (1 / torch.arange(1, len(wrong) + 1, dtype=torch.float64)).cumsum(0)])

    def area(rows: torch.Tensor) -> torch.Tensor:  # [s, D] -> [s]
        # With k ties, the i-th risk is (errors above its confidence + rate x ties so far) / i = passed / i + rate,
        # so the sum over a run of ties needs harmonic numbers alone.
        shape = (len(rows), len(wrong))
        rank = (start[rows] + torch.arange(shape[0])[:, None] * shape[1]).flatten()  # of all samples, one after another
        size = torch.bincount(rank, minlength=shape[0] * shape[1]).view(shape)  # [s, n]
        errors = torch.bincount(rank, weights=wrong[rows].flatten(), minlength=shape[0] * shape[1]).view(shape)
        last = size.cumsum(1)
        rate = errors / size.clamp(min=1)
        passed = errors.cumsum(1) - errors - (last - size) * rate
        return (passed * (harmonic[last] - harmonic[last - size]) + size * rate).sum(1) / rows.shape[1]

    return bootstrap_together(area, len(wrong), draws=draws, coverage=coverage, seed=seed)


def confidence_of(logits: torch.Tensor) -> torch.Tensor:
    """Return the largest softmax probability of each image, float64 [n]."""
    return torch.cat([part.amax(1) for part in _probabilities(logits)])


def _check_confidence(confidence: torch.Tensor, right: torch.Tensor) -> None:
    """Raise ValueError for no image, other shapes than [n] and [n], and confidences that are not finite."""
    if confidence.ndim != 1 or confidence.shape != right.shape or len(right) == 0:
        raise ValueError(f"{tuple(confidence.shape)} confidences for {tuple(right.shape)} answers; give one each")
    if not bool(confidence.isfinite().all()):
        raise ValueError(f"the confidence of row {int((~confidence.isfinite()).nonzero()[0])} is not finite")


def _bins(confidence: torch.Tensor, bins: int) -> torch.Tensor:
    """Return the bin of each image, int64 [n]; bins are half-open: (lower, upper]."""
    return ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)


def _reach(holds: Callable[[float], bool], end: float) -> float:
    """Return, by bisection, how far from zero towards `end` something holds that stops once; zero if nowhere."""
    if holds(end):
        return end
    near, far = 0.0, end
    for _ in range(STEPS):
        middle = (near + far) / 2
        near, far = (middle, far) if holds(middle) else (near, middle)
    return near


def _probabilities(logits: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the probabilities of `ROWS` images at a time, float64 [rows, c]; all at once would double the memory."""
    for part in torch.split(logits, ROWS):
        yield part.double().softmax(1)

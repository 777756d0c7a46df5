"""How far the probabilities of a classifier can be trusted: calibration error, Brier score, risk against coverage."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rag_clip.evaluate.metrics import check_logits, is_right


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Images by the probability of their prediction, in bins of equal width: the reliability diagram.

    `images` int64 [bins]; `confidence` and `accuracy` float64 [bins], NaN where a bin is empty.
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
    """Put images in `bins` of the largest softmax probability; 15 as in Guo et al., ICML 2017, arXiv 1706.04599.

    Logits [n, c] are those that the classifier means: scaled. Raises ValueError for bins below 1 and as `check_logits`.
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}; ask for at least one")
    right = is_right(logits, targets).double()
    confidence = _probabilities(logits).amax(1)
    # A bin holds its upper end: (lower, upper].
    place = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    images = torch.bincount(place, minlength=bins)
    totals = [torch.bincount(place, weights=values, minlength=bins) for values in (confidence, right)]
    return Reliability(images, totals[0] / images, totals[1] / images)


def calibration_error(logits: torch.Tensor, targets: torch.Tensor, *, bins: int = 15) -> float:
    """Return the expected calibration error (`Reliability.error`)."""
    return reliability(logits, targets, bins=bins).error


def brier_score(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the mean over images of the sum over classes of (probability - 1[label])^2, in [0, 2] (Brier, 1950)."""
    check_logits(logits, targets)
    probabilities = _probabilities(logits)
    own = probabilities.gather(1, targets[:, None].long())[:, 0]
    return float((probabilities.square().sum(1) - 2 * own + 1).mean())


@dataclass(frozen=True, slots=True, eq=False)
class RiskCoverage:
    """The share of wrong images among those answered (`risk`), where the surest `coverage` of all are; float64."""

    coverage: torch.Tensor
    risk: torch.Tensor
    area: float


def risk_coverage(confidence: torch.Tensor, right: torch.Tensor) -> RiskCoverage:
    """Answer the surest images first, by `confidence` [n], and follow the risk; `right` is bool [n].

    `area` is AURC, the mean risk over the n coverages 1/n..1 (Geifman & El-Yaniv, NeurIPS 2017, arXiv 1705.08500);
    images of one confidence share their errors evenly, so that their order makes no difference.
    Raises ValueError for no image, other shapes, and confidences that are not finite.
    """
    if confidence.ndim != 1 or confidence.shape != right.shape or len(right) == 0:
        raise ValueError(f"{tuple(confidence.shape)} confidences for {tuple(right.shape)} answers; give one each")
    if not bool(confidence.isfinite().all()):
        raise ValueError(f"the confidence of row {int((~confidence.isfinite()).nonzero()[0])} is not finite")
    falling = -confidence.double()
    place = torch.searchsorted(falling.sort().values, falling)
    size = torch.bincount(place, minlength=len(right))
    wrong = torch.bincount(place, weights=(~right.bool()).double(), minlength=len(right)) / size
    answered = torch.arange(1, len(right) + 1, dtype=torch.float64, device=right.device)
    risk = wrong.repeat_interleave(size).cumsum(0) / answered
    return RiskCoverage(answered / len(right), risk, float(risk.mean()))


def confidence_of(logits: torch.Tensor) -> torch.Tensor:
    """Return the largest softmax probability of each image, float64 [n]."""
    return _probabilities(logits).amax(1)


def _probabilities(logits: torch.Tensor) -> torch.Tensor:
    return logits.double().softmax(1)

"""Kernel ridge regression of what the text classifier does not explain: a Gaussian process with the text as prior mean.

ProKeR (Bendou et al., CVPR 2025, arXiv 2501.11175). With t the zero-shot logits, each row centred over the classes that
have images, and y the shares of an image, centred in the same way, the residual y - g t of the support is fitted by

    k(x, x') = exp(-bandwidth (1 - x'x) / median(1 - x'x))        R = Y - g T
    A = (K + penalty W^-1)^-1 R                                   logits = zero-shot + k(f, X) A / g

g is the least-squares factor by which the text explains y, and at least 1 / scale: dividing by it expresses the
residual in units of logits, so that a large penalty gives zero-shot. W weights an image by its relevance divided by the
mass of its class, so that all classes count equally (mode="published": by its relevance). The median is over pairs of
support images, so that a bandwidth means the same for every encoder. The sum decides among the classes that have images
(`evidence.among`).

Penalty and bandwidth minimise the squared error over shots, each left out once, and over validation images. Leaving out
is exact for fixed W, g and median, and needs no refit: with H = (K + penalty W^-1)^-1 the error of image s is (H R)_s /
H_ss. If no image may judge, bandwidth (the median rule) and penalty are 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from rag_clip.classifiers.evidence import Evidence, Held, among, centre, gather_evidence, hold_out, wide
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support, Validation
from rag_clip.progress import Report, silent
from rag_clip.protocols import Encoder

BANDWIDTHS = (0.1, 0.3, 1.0, 3.0, 10.0)
PENALTIES = tuple(10 ** (step / 2) for step in range(-6, 3))
MOST_IMAGES = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class Ridge:
    """Zero-shot logits plus exp(-`rate` (1 - f X')) `coefficients`, with support `images` X [m, d].

    `coefficients` are [m, c]. The head decides among the classes `present`, bool [c]. `bandwidth` and `penalty` are the
    given or chosen settings.
    """

    zero_shot: ZeroShot
    images: torch.Tensor
    coefficients: torch.Tensor
    present: torch.Tensor
    rate: float
    bandwidth: float
    penalty: float

    @property
    def labels(self) -> LabelSet:
        """The c classes."""
        return self.zero_shot.labels

    def __call__(self, features: Features) -> torch.Tensor:
        """Return logits [n, c], on the device and in the dtype of `features.pooled` [n, d]."""
        rows = wide(features.pooled)
        text = self.zero_shot(Features(rows))
        added = torch.exp(self.rate * (rows @ self.images.to(rows).T - 1)) @ self.coefficients.to(rows)
        return among(text + added, text, self.present.to(rows.device)).to(features.pooled.dtype)


@dataclass(frozen=True, slots=True)
class RidgeSettings:
    """Bandwidth and penalty, chosen if None, and how images are weighted (`mode`, W above).

    Raises ValueError for numbers that are not above zero.
    """

    bandwidth: float | None = None
    penalty: float | None = None
    mode: Literal["balanced", "published"] = "balanced"

    def __post_init__(self) -> None:
        if not all(value is None or value > 0 for value in (self.bandwidth, self.penalty)):
            raise ValueError(f"bandwidth is {self.bandwidth} and penalty {self.penalty}; both must be above zero")

    @torch.no_grad()
    def build(
        self,
        zero_shot: ZeroShot,
        support: Support,
        *,
        validation: Validation | None = None,
        encoder: Encoder | None = None,
        report: Report = silent,
    ) -> Ridge:
        """Fit the residual of the text on the support images.

        Raises ValueError if support or validation do not fit the classifier, or for too many images for an m x m
        system.
        """
        if len(support) > MOST_IMAGES:
            raise ValueError(
                f"ridge takes at most {MOST_IMAGES} support images, and the support set has {len(support)}; use fewer "
                "images per class, or gaussian, whose cost does not grow with the square of their number"
            )
        evidence = gather_evidence(zero_shot, support)
        problem = _residual(evidence, self.mode, zero_shot.scale)
        judged = None if validation is None else hold_out(zero_shot, validation, evidence.present)
        bandwidth, penalty = self.bandwidth, self.penalty
        if not evidence.judges.any() and (judged is None or not len(judged.images)):
            bandwidth, penalty = bandwidth or 1.0, penalty or 1.0
        bandwidths = BANDWIDTHS if bandwidth is None else (bandwidth,)
        penalties = PENALTIES if penalty is None else (penalty,)
        if len(bandwidths) == len(penalties) == 1:
            best = _solve(problem, bandwidths[0], penalties[0])
        else:
            best = min(_fits(evidence, problem, judged, bandwidths, penalties), key=lambda fit: fit.error)
        coefficients = best.coefficients / problem.gain
        rate = best.bandwidth / problem.median
        return Ridge(zero_shot, evidence.images, coefficients, evidence.present, rate, best.bandwidth, best.penalty)


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    """`residual` R [m, c], the `roots` [m] of the row weights, cosine `distances` [m, m], their `median`, `gain` g."""

    residual: torch.Tensor
    roots: torch.Tensor
    distances: torch.Tensor
    median: float
    gain: float


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """The squared error of a pair of settings on the images that judge, and the `coefficients` [m, c]."""

    error: float
    bandwidth: float
    penalty: float
    coefficients: torch.Tensor


def _residual(evidence: Evidence, mode: str, scale: float) -> _Problem:
    relevance = evidence.shares.sum(1, keepdim=True)
    present, mass = evidence.present, evidence.mass
    weights = relevance[:, 0]
    if mode == "balanced":
        weights = evidence.shares @ torch.where(present, mass[present].mean() / mass, 0.0)
    prior = centre(evidence.logits, present)  # [m, c]
    targets = centre(evidence.shares / relevance, present)  # [m, c]
    explained, power = ((weights[:, None] * prior * other).sum() for other in (targets, prior))
    gain = max(float(explained / power.clamp(min=1e-12)), 1 / scale)
    distances = (1 - evidence.images @ evidence.images.T).clamp(min=0)
    pairs = distances[~torch.eye(len(distances), dtype=torch.bool, device=distances.device)]
    median = max(float(pairs.median()), 1e-6) if len(pairs) else 1.0
    return _Problem(targets - gain * prior, weights.sqrt(), distances, median, gain)


def _solve(problem: _Problem, bandwidth: float, penalty: float) -> _Fit:
    """Solve for one pair of settings, which nothing judges, by Cholesky: far faster than an eigendecomposition."""
    roots = problem.roots[:, None]
    system = roots * torch.exp(-bandwidth / problem.median * problem.distances) * roots.T
    system.diagonal().add_(penalty)
    coefficients = roots * torch.cholesky_solve(roots * problem.residual, torch.linalg.cholesky(system))
    return _Fit(0.0, bandwidth, penalty, coefficients)


def _fits(
    evidence: Evidence,
    problem: _Problem,
    held: Held | None,
    bandwidths: tuple[float, ...],
    penalties: tuple[float, ...],
) -> Iterator[_Fit]:
    """Solve for each pair of settings, one eigendecomposition of W^1/2 K W^1/2 for all penalties."""
    roots, judges = problem.roots[:, None], evidence.judges
    for bandwidth in bandwidths:
        kernel = torch.exp(-bandwidth / problem.median * problem.distances)
        values, vectors = torch.linalg.eigh(roots * kernel * roots.T)  # [m], [m, m]
        scaled = roots * vectors
        projected = scaled.T @ problem.residual  # [m, c]
        for penalty in penalties:
            shrunk = scaled / (values.clamp(min=0) + penalty)  # rounding may make a zero eigenvalue negative
            coefficients = shrunk @ projected
            left_out = coefficients / (shrunk * scaled).sum(1, keepdim=True)  # [m, c], H R over the diagonal of H
            error = float((roots * left_out)[judges].square().sum())
            if held is not None:
                rate = bandwidth / problem.median
                predicted = torch.exp(rate * (held.images @ evidence.images.T - 1)) @ coefficients
                expected = centre(held.targets, evidence.present) - problem.gain * centre(held.logits, evidence.present)
                error += float((expected - predicted).square().sum())
            yield _Fit(error, bandwidth, penalty, coefficients)

"""Kernel ridge regression of what the text classifier leaves unexplained: text as the prior mean of a Gaussian process.

ProKeR (Bendou et al., CVPR 2025, arXiv 2501.11175): with t the zero-shot logits, each row centred over the classes that
have images, and y the shares of an image, centred likewise, the residual y - g t of the support is fitted by

    k(x, x') = exp(-bandwidth (1 - x'x) / median(1 - x'x))        R = Y - g T
    A = (K + penalty W^-1)^-1 R                                   logits = zero-shot + k(f, X) A / g

g is how much of y the text explains by itself, in least squares, and at least 1 / scale: dividing by it puts the
residual in units of logits, so that a large penalty gives zero-shot. W weighs an image by its relevance over the mass
of its class, so that classes count alike (mode="published": by its relevance). The median is over pairs of support
images: a bandwidth means the same for every encoder. The sum decides among the classes that have images
(`evidence.among`).

Penalty and bandwidth have the least squared error over shots left out one by one, and over validation images. Leaving
out is exact, for W, g and the median as they are, and costs no refit: with H = (K + penalty W^-1)^-1 the error of
image s is (H R)_s / H_ss. Where nothing may judge, the bandwidth is 1 (the median rule) and so is the penalty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from rag_clip.classifiers.evidence import Evidence, Held, among, centre, gather_evidence, hold_out
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support, Validation
from rag_clip.progress import Report, silent
from rag_clip.protocols import Encoder

BANDWIDTHS = (0.1, 0.3, 1.0, 3.0, 10.0)
PENALTIES = tuple(10 ** (step / 2) for step in range(-6, 3))
MOST_IMAGES = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class Ridge:
    """Zero-shot logits plus exp(-`rate` (1 - f X')) `coefficients`, for support `images` X [m, d], coefficients [m, c].

    It decides among the classes `present`, bool [c]. `bandwidth` and `penalty` are what was given or chosen.
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
        rows = features.pooled.to(torch.promote_types(features.pooled.dtype, torch.float32))
        text = self.zero_shot(Features(rows))
        added = torch.exp(self.rate * (rows @ self.images.to(rows).T - 1)) @ self.coefficients.to(rows)
        return among(text + added, text, self.present.to(rows.device)).to(features.pooled.dtype)


@dataclass(frozen=True, slots=True)
class RidgeSettings:
    """Bandwidth and penalty, chosen where they are not given, and what an image counts by (`mode`, W above).

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

        Raises ValueError for a support or validation set that does not fit, and more images than an m x m system is
        fit for.
        """
        if len(support) > MOST_IMAGES:
            raise ValueError(
                f"ridge solves a system as wide as the support set, which has {len(support)} images of at most "
                f"{MOST_IMAGES}; use fewer images per class, or gaussian, whose cost does not grow with their square"
            )
        evidence = gather_evidence(zero_shot, support)
        problem = _residual(evidence, self.mode, zero_shot.scale)
        held = None if validation is None else hold_out(zero_shot, validation, evidence.present)
        bandwidth, penalty = self.bandwidth, self.penalty
        if not evidence.judges.any() and (held is None or not len(held.images)):
            bandwidth, penalty = bandwidth or 1.0, penalty or 1.0
        bandwidths = BANDWIDTHS if bandwidth is None else (bandwidth,)
        penalties = PENALTIES if penalty is None else (penalty,)
        best = min(_fits(evidence, problem, held, bandwidths, penalties), key=lambda fit: fit.error)
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
    """The squared error of two settings on what judges, and their `coefficients` [m, c]."""

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
    prior = centre(evidence.logits, present)
    targets = centre(evidence.shares / relevance, present)
    explained, power = ((weights[:, None] * prior * other).sum() for other in (targets, prior))
    gain = max(float(explained / power.clamp(min=1e-12)), 1 / scale)
    distances = (1 - evidence.images @ evidence.images.T).clamp(min=0)
    pairs = distances[~torch.eye(len(distances), dtype=torch.bool, device=distances.device)]
    median = max(float(pairs.median()), 1e-6) if len(pairs) else 1.0
    return _Problem(targets - gain * prior, weights.sqrt(), distances, median, gain)


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
        values, vectors = torch.linalg.eigh(roots * kernel * roots.T)
        scaled = roots * vectors
        projected = scaled.T @ problem.residual
        for penalty in penalties:
            shrunk = scaled / (values.clamp(min=0) + penalty)
            coefficients = shrunk @ projected
            left_out = coefficients / (shrunk * scaled).sum(1, keepdim=True)  # H R over the diagonal of H
            error = float((roots * left_out)[judges].square().sum())
            if held is not None:
                rate = bandwidth / problem.median
                found = torch.exp(rate * (held.images @ evidence.images.T - 1)) @ coefficients
                wanted = centre(held.targets, evidence.present) - problem.gain * centre(held.logits, evidence.present)
                error += float((wanted - found).square().sum())
            yield _Fit(error, bandwidth, penalty, coefficients)

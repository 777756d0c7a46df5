"""The linear classifier that evidence of the classes, one triple that adds up, gives beside the texts.

Every source of images says the same three things: how many images of each class, n [c]; the sum of their features,
S [c, d]; and the sum of the squares of all, q [d]. Evidence of two sources is the sum of theirs, and a source that
counts for less is multiplied by its weight. With unit class texts T_k, kappa = nu = 1 and N = sum_k n_k:

    g    = sum_k (S_k - n_k T_k) / N                       the gap between images and texts, of the classes seen
    m_k  = (S_k + kappa (T_k + g)) / (n_k + kappa)         a class without images stands at its text and the gap
    tau2 = q / N - (sum_k S_k / N)^2                       the variance of all images
    var  = [q - 2 sum_k m_k S_k + sum_k n_k m_k^2 + kappa sum_k (T_k + g - m_k)^2
            + nu c (tau2 + mean tau2) / 2] / (N + nu c)    within the classes, shared, of each dimension
    var += 0.1 mean var
    w_k  = m_k / var        b_k = -1/2 sum_j m_kj^2 / var_j

so that w_k x + b_k is the log-likelihood of the class, but for what all share. The nu c images of the total variance
keep small samples from seeming precise. Log-likelihoods count a = 1/50 N / (N + 2 c) beside logits, because features
are not independent and few images know little. The method is ours; its constants were settled on two sets of features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from rag_clip.data import Evidence
from rag_clip.protocols import Classifier

ANCHOR_IMAGES = 1.0
PRIOR_IMAGES = 1.0
LEAST_VARIANCE = 0.1
LIKELIHOOD_WEIGHT = 1 / 50
FEWEST = 16  # images without labels that are too few to be evidence for one another


def evidence_of(features: torch.Tensor, shares: torch.Tensor, weights: torch.Tensor | None = None) -> Evidence:
    """Return the evidence of images: features [n, d], their shares of the classes [n, c], and their weights [n]."""
    if weights is not None:
        shares = shares * weights[:, None]
    return Evidence(shares.sum(0), shares.T @ features, shares.sum(1) @ features**2)


@dataclass(frozen=True, slots=True, eq=False)
class Likelihoods:
    """The linear classifier of `solve`: x @ weights.T + biases, weights [c, d], biases [c].

    means: where the classes stand among the images, [c, d].
    anchors: where a class without images stands, [c, d].
    variance: within the classes, [d].
    """

    weights: torch.Tensor
    biases: torch.Tensor
    means: torch.Tensor
    anchors: torch.Tensor
    variance: torch.Tensor


def solve(evidence: Evidence, texts: torch.Tensor) -> Likelihoods:
    """Return the classifier that evidence gives beside unit class texts [c, d]; the texts' dtype is computed in."""
    counts, sums = evidence.counts.to(texts), evidence.sums.to(texts)
    squares, number = evidence.squares.to(texts), evidence.counts.to(texts).sum()
    tiny = torch.finfo(texts.dtype).tiny
    gap = (sums.sum(0) - counts @ texts) / number.clamp(min=tiny)  # [d]
    anchors = texts + gap
    means = (sums + ANCHOR_IMAGES * anchors) / (counts + ANCHOR_IMAGES)[:, None]
    total = (squares / number.clamp(min=tiny) - (sums.sum(0) / number.clamp(min=tiny)) ** 2).clamp(min=0)  # [d]
    within = squares - 2 * (means * sums).sum(0) + counts @ means**2 + ANCHOR_IMAGES * ((anchors - means) ** 2).sum(0)
    prior = PRIOR_IMAGES * len(texts)
    variance = (within + prior * (total + total.mean()) / 2) / (number + prior)
    variance = (variance + LEAST_VARIANCE * variance.mean()).clamp(min=torch.finfo(texts.dtype).eps ** 2)
    weights = means / variance
    return Likelihoods(weights, -0.5 * (means * weights).sum(1), means, anchors, variance)


def likelihood_weight(evidence: Evidence) -> float:
    """Return how much log-likelihoods count beside logits: a, from 0 without images to 1/50."""
    number = float(evidence.counts.sum())
    return LIKELIHOOD_WEIGHT * number / (number + 2 * len(evidence.counts))


@dataclass(frozen=True, slots=True)
class SourcePart:
    """What a source adds to the logits of two classes for an image, compared with a tie between them.

    shares: of the source in where the two classes stand among the images; those of all sources sum to one.
    lifts: what it adds to the logit of each, less its share of the mean of both.
    """

    source: str
    shares: tuple[float, float]
    lifts: tuple[float, float]

    @property
    def gap(self) -> float:
        """How far the source moves the first class from the second."""
        return self.lifts[0] - self.lifts[1]


def split_decision(
    sources: Mapping[str, Evidence], texts: torch.Tensor, image: torch.Tensor, rows: tuple[int, int]
) -> tuple[SourcePart, ...]:
    """Return what the texts, as anchors, and each source add to the logits of two classes for an image.

    sources: evidence by name, weighed.
    texts: unit class texts [c, d].
    image: its unit feature [d].
    rows: the two classes.

    The class mean is a sum over the sources, m_k = sum_e p_ek with p_ek = S_ek / (n_k + kappa), and so is w_k x + b_k =
    m_k (x - m_k / 2) / var. With M the mean over the two classes, the lift of a source is a (p_ek (x - m_k / 2) / var -
    share_ek M), so that lifts of the first class less those of the second are a (w x + b) of the first less that of the
    second.
    """
    first, *rest = sources.values()
    total = sum(rest, first)
    found, rate = solve(total, texts), likelihood_weight(total)
    mean = sum(float(found.weights[row] @ image.to(texts) + found.biases[row]) for row in rows) / 2
    masses = {"text": ANCHOR_IMAGES * torch.ones_like(texts[:, 0])} | {
        k: v.counts.to(texts) for k, v in sources.items()
    }
    sums = {"text": ANCHOR_IMAGES * found.anchors} | {name: each.sums.to(texts) for name, each in sources.items()}
    parts = []
    for name in masses:
        shares, lifts = [], []
        for row in rows:
            number = float(total.counts[row]) + ANCHOR_IMAGES
            point = (image.to(texts) - found.means[row] / 2) / found.variance  # [d]
            shares.append(float(masses[name][row]) / number)
            lifts.append(rate * (float(sums[name][row] @ point) / number - shares[-1] * mean))
        parts.append(SourcePart(name, (shares[0], shares[1]), (lifts[0], lifts[1])))
    return tuple(parts)


@dataclass(frozen=True, slots=True, eq=False)
class HeldEvidence:
    """Evidence that a classifier holds already, and the classifier `without` it, to which more evidence is added."""

    evidence: Evidence
    without: Classifier

"""Weights of captions from their vectors: against captions of other classes (contrast) and templates (trust).

Both rules are ours. Contrast: a caption weighs more the better it separates its class from the others.

For captions r_k retrieved for class c(k), unit vectors, and the encoder's scale s, starting from equal shares:

    m_c = normalise( sum_{k of c} share_k r_k )
    p_k = softmax_c'( s cos(r_k, m_c') ) at c(k)            share_k = p_k / sum_{k' of c(k)} p_k'

repeated; two rounds suffice. Captions that fit another class better, or all classes equally well ("stock photo"), get
small shares.

Trust: the weight of a class's captions against its templates, without labels. Let t_c be the unit vector of the class's
templates, and m_c-k the mean m_c without caption k:

    known_c = softmax_c'( s cos(t_c, m_c') ) at c                             templates match the captions of the class
    sure_c  = sum_{k of c} share_k softmax_c'( s cos(r_k, m_c'-k) ) at c      captions match one another
    weight_c = known_c min(weight, 0.25) + (1 - known_c) weight               0 where sure_c < 0.3

If the encoder knows a name, the templates dominate, and the captions have at most RePE's published weight; otherwise
the captions have the full weight. Captions are not trusted if they are few or scattered, so that each alone would be
assigned to another class; a single caption never confirms itself. The threshold 0.3 was chosen on the validation
photographs of the micro world (tests/benchmarks/recipes.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.functional import normalize

ROUNDS = 2
BLOCK_VALUES = 2**20
KNOWN_WEIGHT = 0.25
LEAST_SURE = 0.3


@torch.no_grad()
def contrast(
    vectors: torch.Tensor, classes: torch.Tensor, *, count: int, scale: float, rounds: int = ROUNDS
) -> torch.Tensor:
    """Return the share of each caption in its class, [t]; shares sum to one in each class that has captions.

    vectors: unit vectors of the captions, [t, d].
    classes: their classes, int64 [t], below `count`.
    count: number of classes.
    scale: the encoder's scale.
    rounds: of re-weighting; with 0 the shares are equal.

    Device and dtype are those of `vectors`. In float32 the relative error of a share is about 1e-6 times the scale.
    """
    shares = _shared(torch.zeros(len(vectors), dtype=vectors.dtype, device=vectors.device), classes, count)
    for _ in range(rounds):
        means = class_means(vectors, classes, shares, count=count)  # [c, d]
        shares = _shared(log_probabilities(vectors, classes, means, scale=scale), classes, count)
    return shares


def class_means(vectors: torch.Tensor, classes: torch.Tensor, shares: torch.Tensor, *, count: int) -> torch.Tensor:
    """Return the means m_c [c, d], not normalised; zeros for a class without captions."""
    means = torch.zeros(count, vectors.shape[1], dtype=vectors.dtype, device=vectors.device)
    for rows in blocks(len(vectors), vectors.shape[1]):
        means.index_add_(0, classes[rows], shares[rows, None] * vectors[rows])
    return means


def log_probabilities(
    vectors: torch.Tensor,
    classes: torch.Tensor,
    means: torch.Tensor,
    *,
    scale: float,
    left_out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return log p [t] of each vector's class, among the classes that have captions.

    vectors, classes: as in `contrast`.
    means: of the classes, [c, d]; zeros for a class without captions.
    scale: the encoder's scale.
    left_out: [t]; this multiple of the vector is subtracted from the mean of its own class first.
    """
    directions = normalize(means, dim=-1)  # [c, d]
    absent = torch.zeros_like(means[:, 0]).masked_fill(means.abs().amax(1) == 0, -torch.inf)  # [c]
    found = torch.empty(len(vectors), dtype=vectors.dtype, device=vectors.device)
    for rows in blocks(len(vectors), max(means.shape)):
        block, column = vectors[rows], classes[rows, None]
        logits = torch.addmm(absent, block, directions.T, alpha=scale)  # [t, c]
        if left_out is not None:
            rest = normalize(means[classes[rows]] - left_out[rows, None] * block, dim=-1)  # [t, d]
            logits.scatter_(1, column, scale * (block * rest).sum(1, keepdim=True))
        found[rows] = logits.gather(1, column)[:, 0] - logits.logsumexp(1)
    return found


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Yield slices of rows with about a million values each, so that intermediate results fit in the caches."""
    step = max(1, BLOCK_VALUES // width)
    return (slice(start, start + step) for start in range(0, rows, step))


def _shared(log_weights: torch.Tensor, classes: torch.Tensor, count: int) -> torch.Tensor:
    """Normalise exp(log_weights) [t] within each class, without underflow where all weights of a class are small."""
    # Subtracting the largest of each class leaves the quotient unchanged and makes one exponent 0.
    largest = torch.full((count,), -torch.inf, dtype=log_weights.dtype, device=log_weights.device)
    largest = largest.scatter_reduce(0, classes, log_weights, "amax")
    weights = (log_weights - largest[classes]).exp()
    return weights / torch.zeros_like(largest).index_add_(0, classes, weights)[classes]


@torch.no_grad()
def trust(
    templates: torch.Tensor,
    vectors: torch.Tensor,
    classes: torch.Tensor,
    shares: torch.Tensor,
    *,
    scale: float,
    weight: float,
    least_sure: float = LEAST_SURE,
    sure: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the weight of each class's captions, [c], from 0 to `weight`.

    templates: unit vector of each class's templates, [c, d].
    vectors, classes: unit vectors of the captions [t, d], and their classes [t].
    shares: of the captions in their classes, [t], as returned by `contrast`.
    scale: the encoder's scale.
    weight: the largest weight.
    least_sure: captions of classes below it are not trusted.
    sure: the result of `confirmed` for these captions, if it is known already.
    """
    count = len(templates)
    means = class_means(vectors, classes, shares, count=count)  # [c, d]
    known = log_probabilities(templates, torch.arange(count, device=classes.device), means, scale=scale).exp()  # [c]
    weights = known * min(weight, KNOWN_WEIGHT) + (1 - known) * weight
    sure = confirmed(vectors, classes, shares, count=count, scale=scale) if sure is None else sure
    return weights.masked_fill(sure < least_sure, 0)


@torch.no_grad()
def confirmed(
    vectors: torch.Tensor, classes: torch.Tensor, shares: torch.Tensor, *, count: int, scale: float
) -> torch.Tensor:
    """Return sure_c [c]: how surely the captions of a class are told from those of the others, each by the rest.

    It is 0 for a class with a single caption or none. The parameters are those of `trust`, for `count` classes.
    """
    means = class_means(vectors, classes, shares, count=count)  # [c, d]
    alone = torch.bincount(classes, minlength=count)[classes] == 1  # [t]
    # Without caption k the mean of a single-caption class is zero or rounding noise; its probability means nothing.
    own = log_probabilities(vectors, classes, means, scale=scale, left_out=shares).exp().masked_fill(alone, 0)  # [t]
    return torch.zeros(count, dtype=own.dtype, device=own.device).index_add_(0, classes, shares * own)

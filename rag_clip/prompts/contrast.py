"""Captions weighed by vectors: against those of other classes (contrast), and against the templates (trust).

Both rules are ours. Contrast: a caption weighs what it tells its class from the others.

For captions r_k found for class c(k), unit vectors, and s the encoder's scale, starting from equal shares:

    m_c = normalise( sum_{k of c} share_k r_k )
    p_k = softmax_c'( s cos(r_k, m_c') ) at c(k)            share_k = p_k / sum_{k' of c(k)} p_k'

repeated; two rounds settle it. Captions that fit another class better, or every class alike ("stock photo"), fade.

Trust: how much a class's captions weigh against its templates, from the evidence and without labels. With t_c the unit
vector of the class's templates, and m_c without caption k written m_c-k:

    known_c = softmax_c'( s cos(t_c, m_c') ) at c                             the templates point to their own captions
    sure_c  = sum_{k of c} share_k softmax_c'( s cos(r_k, m_c'-k) ) at c      captions point to one another
    weight_c = known_c min(weight, 0.25) + (1 - known_c) weight               0 where sure_c < 0.3

A name the encoder knows keeps its templates, at RePE's published weight; one it does not know leans on its captions.
Few or scattered captions, of which each alone would be taken for another class's, are not trusted: a lone caption never
confirms itself. 0.3 was chosen on the micro world's validation photographs (tests/benchmarks/recipes.py).
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
    """Return the share [t] of each caption in its class, from unit `vectors` [t, d] and `classes` [t] below `count`.

    Shares sum to one in each class that has captions; with no round they are equal. Device and dtype are those of the
    vectors; in float32 the shares are right to about 1e-6 times the scale.
    """
    shares = _shared(torch.zeros(len(vectors), dtype=vectors.dtype, device=vectors.device), classes, count)
    for _ in range(rounds):
        means = class_means(vectors, classes, shares, count=count)
        shares = _shared(log_probabilities(vectors, classes, means, scale=scale), classes, count)
    return shares


def class_means(vectors: torch.Tensor, classes: torch.Tensor, shares: torch.Tensor, *, count: int) -> torch.Tensor:
    """Return m_c [c, d] before it is normalised; zeros for a class without captions."""
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
    """Return log p [t] of each vector's class among those that have captions.

    With `left_out` [t], that many times the vector itself is taken from the mean of its own class first.
    """
    directions = normalize(means, dim=-1)
    absent = torch.zeros_like(means[:, 0]).masked_fill(means.abs().amax(1) == 0, -torch.inf)
    found = torch.empty(len(vectors), dtype=vectors.dtype, device=vectors.device)
    for rows in blocks(len(vectors), max(means.shape)):
        block, column = vectors[rows], classes[rows, None]
        logits = torch.addmm(absent, block, directions.T, alpha=scale)  # [t, c]
        if left_out is not None:
            rest = normalize(means[classes[rows]] - left_out[rows, None] * block, dim=-1)
            logits.scatter_(1, column, scale * (block * rest).sum(1, keepdim=True))
        found[rows] = logits.gather(1, column)[:, 0] - logits.logsumexp(1)
    return found


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Cut rows into slices of about a million values each, so that what is computed of them stays in the caches."""
    step = max(1, BLOCK_VALUES // width)
    return (slice(start, start + step) for start in range(0, rows, step))


def _shared(log_weights: torch.Tensor, classes: torch.Tensor, count: int) -> torch.Tensor:
    """Normalise exp(log_weights) [t] within each class, without underflow where all of a class are small."""
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
) -> torch.Tensor:
    """Return the weight [c] of the captions of each class, 0 to `weight`.

    `templates` [c, d] and `vectors` [t, d] are unit rows; `classes` [t] and `shares` [t] as in prompts.contrast.
    """
    count = len(templates)
    means = class_means(vectors, classes, shares, count=count)
    known = log_probabilities(templates, torch.arange(count, device=classes.device), means, scale=scale).exp()
    alone = torch.bincount(classes, minlength=count)[classes] == 1
    told = log_probabilities(vectors, classes, means, scale=scale, left_out=shares).exp().masked_fill(alone, 0)
    sure = torch.zeros_like(known).index_add_(0, classes, shares * told)
    weights = known * min(weight, KNOWN_WEIGHT) + (1 - known) * weight
    return weights.masked_fill(sure < LEAST_SURE, 0)

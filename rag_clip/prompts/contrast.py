"""Contrast by vectors: a caption weighs what it tells its class from the others. The rule is ours.

For captions r_k found for class c(k), unit vectors, and s the encoder's scale, starting from equal shares:

    m_c = normalise( sum_{k of c} share_k r_k )
    p_k = softmax_c'( s cos(r_k, m_c') ) at c(k)            share_k = p_k / sum_{k' of c(k)} p_k'

repeated; two rounds settle it. Captions that fit another class better, or every class alike ("stock photo"), fade.
"""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

ROUNDS = 2
ROWS_AT_ONCE = 4096


@torch.no_grad()
def contrast(
    vectors: torch.Tensor, classes: torch.Tensor, *, count: int, scale: float, rounds: int = ROUNDS
) -> torch.Tensor:
    """Return the share [t] of each caption in its class, from unit `vectors` [t, d] and `classes` [t] below `count`.

    Shares sum to one in each class that has captions; with no round they are equal.
    """
    shares = _shared(torch.zeros(len(vectors), dtype=vectors.dtype, device=vectors.device), classes, count)
    for _ in range(rounds):
        means = class_means(vectors, classes, shares, count=count)
        shares = _shared(log_probabilities(vectors, classes, means, scale=scale), classes, count)
    return shares


def class_means(vectors: torch.Tensor, classes: torch.Tensor, shares: torch.Tensor, *, count: int) -> torch.Tensor:
    """Return m_c [c, d] before it is normalised; zeros for a class without captions."""
    means = torch.zeros(count, vectors.shape[1], dtype=vectors.dtype, device=vectors.device)
    return means.index_add_(0, classes, shares[:, None] * vectors)


def log_probabilities(
    vectors: torch.Tensor,
    classes: torch.Tensor,
    means: torch.Tensor,
    *,
    scale: float,
    own: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return log p [t] of each vector's class among those that have captions; `own` [t] replaces cos(r_k, m_c(k))."""
    directions, absent = normalize(means, dim=-1), means.abs().amax(1) == 0
    parts = [torch.empty(0, dtype=vectors.dtype, device=vectors.device)]
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        column = classes[rows, None]
        cosines = (vectors[rows] @ directions.T).masked_fill(absent, -torch.inf)  # [t, c]
        if own is not None:
            cosines = cosines.scatter(1, column, own[rows, None])
        parts.append((scale * cosines).log_softmax(1).gather(1, column)[:, 0])
    return torch.cat(parts)


def _shared(log_weights: torch.Tensor, classes: torch.Tensor, count: int) -> torch.Tensor:
    """Normalise exp(log_weights) [t] within each class, without underflow where all of a class are small."""
    largest = torch.full((count,), -torch.inf, dtype=log_weights.dtype, device=log_weights.device)
    largest = largest.scatter_reduce(0, classes, log_weights, "amax")
    weights = (log_weights - largest[classes]).exp()
    return weights / torch.zeros_like(largest).index_add_(0, classes, weights)[classes]

"""k-means by Lloyd's iterations (Lloyd, 1982): a random start, and clusters that lose their rows begin anew."""

from __future__ import annotations

import torch

AT_ONCE = 4096


def kmeans(rows: torch.Tensor, clusters: int, *, iterations: int = 20, seed: int = 0) -> torch.Tensor:
    """Return the cluster of each of the rows [m, e], int64 [m], by the nearest mean.

    clusters: at most m are made.
    iterations: of Lloyd's algorithm; fewer where no row changes its cluster.
    seed: of the rows that it starts from.

    A cluster without rows begins anew at the row that is farthest from its mean. Raises ValueError for fewer than one
    cluster or row.
    """
    if clusters < 1 or not len(rows):
        raise ValueError(f"cannot make {clusters} clusters of {len(rows)} rows; give at least one of each")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    means = rows[order[:clusters].to(rows.device)]  # [k, e]
    nearest = torch.full((len(rows),), -1, device=rows.device)
    for _ in range(iterations):
        found, distance = _assign(rows, means)
        if torch.equal(found, nearest):
            break
        nearest = found
        means, counts = cluster_means(rows, nearest, len(means))
        empty = (counts == 0).nonzero().flatten()
        means[empty] = rows[distance.topk(len(empty)).indices]
    return _assign(rows, means)[0]


def cluster_means(rows: torch.Tensor, nearest: torch.Tensor, clusters: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean row of each cluster [k, e], 0 for one without rows, and the number of its rows, int64 [k]."""
    counts = torch.bincount(nearest, minlength=clusters)
    sums = rows.new_zeros(clusters, rows.shape[1]).index_add_(0, nearest, rows)
    return sums / counts.clamp(min=1)[:, None], counts


def _assign(rows: torch.Tensor, means: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the nearest mean of each row, int64 [m], and the squared distance to it, less the row's own norm."""
    found = [
        (means.square().sum(1) - 2 * part @ means.T).min(1) for part in torch.split(rows, AT_ONCE)
    ]  # the norm of a row is the same for all means
    distance = torch.cat([part.values for part in found]) + rows.square().sum(1)
    return torch.cat([part.indices for part in found]), distance

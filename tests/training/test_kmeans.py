"""k-means: clear clusters, the nearest mean, clusters that lose their rows, and wrong counts."""

from __future__ import annotations

import pytest
import torch

from rag_clip.training.kmeans import cluster_means, kmeans


def blobs() -> torch.Tensor:
    centres = torch.tensor([[0.0, 0], [5, 0], [0, 5], [5, 5]]).repeat_interleave(20, 0)
    return centres + 0.1 * torch.randn(80, 2, generator=torch.Generator().manual_seed(0))


def test_clear_clusters_are_found_from_any_start() -> None:
    for seed in range(5):
        found = kmeans(blobs(), 12, seed=seed)
        truth = torch.arange(80) // 20
        assert all(len(set(truth[found == each].tolist())) <= 1 for each in range(12))


def test_rows_have_the_nearest_mean() -> None:
    rows = torch.randn(200, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = kmeans(rows, 7, iterations=100)
    means, counts = cluster_means(rows, found, 7)
    assert torch.equal(torch.cdist(rows, means).argmin(1), found)  # it has converged
    assert counts.sum() == 200
    assert torch.allclose(means[2], rows[found == 2].mean(0))


def test_the_seed_alone_decides() -> None:
    assert torch.equal(kmeans(blobs(), 9, seed=3), kmeans(blobs(), 9, seed=3))


def test_clusters_that_lose_their_rows_begin_anew() -> None:
    rows = torch.cat([torch.zeros(50, 1), torch.tensor([[1.0], [2.0], [3.0]])])
    found = kmeans(rows, 4, iterations=20)  # nearly all starts are the same point
    assert sorted(torch.bincount(found, minlength=4).tolist()) == [1, 1, 1, 50]


def test_there_are_no_more_clusters_than_rows() -> None:
    assert sorted(kmeans(torch.tensor([[1.0], [9.0]]), 5).tolist()) == [0, 1]
    with pytest.raises(ValueError, match="0 clusters of 2 rows"):
        kmeans(torch.zeros(2, 1), 0)

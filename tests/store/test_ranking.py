from __future__ import annotations

import random

import pytest

from rag_clip.store.ranking import fuse, settle_ties


def engine(scores: dict[str, float], seed: int):
    """Rank by score, in random order among equals, as an engine may."""

    def rank(queries: list[int], limit: int) -> list[list[tuple[str, float]]]:
        hits = list(scores.items())
        random.Random(seed).shuffle(hits)
        return [sorted(hits, key=lambda hit: -hit[1])[:limit] for _query in queries]

    return rank


@pytest.mark.parametrize("limit", [1, 3, 7, 40, 100])
def test_ties_are_settled_by_id_whatever_order_the_engine_has(limit):
    scores = {f"{row:03d}": float(row < 5) for row in range(60)}
    expected = sorted(scores.items(), key=lambda hit: (-hit[1], hit[0]))[:limit]
    for seed in range(5):
        assert settle_ties(engine(scores, seed), [0, 1], limit) == [expected, expected]


def test_only_tied_queries_are_asked_again():
    asked = []

    def rank(queries: list[int], limit: int) -> list[list[tuple[str, float]]]:
        asked.append((queries, limit))
        flat = [[(f"{row:02d}", 1.0) for row in range(10)], [(f"{row:02d}", -row) for row in range(10)]]
        return [flat[query][:limit] for query in queries]

    settle_ties(rank, [0, 1], 2)
    assert asked == [([0, 1], 3), ([0], 12)]


def test_reciprocal_ranks_by_hand():
    dense, lexical = [("a", 0.9), ("b", 0.8)], [("b", 7.0), ("c", 5.0)]
    assert fuse([dense, lexical], (1, 1), 3) == [("b", 1 / 62 + 1 / 61), ("a", 1 / 61), ("c", 1 / 62)]
    assert fuse([dense, lexical], (2, 0), 3) == [("a", 2 / 61), ("b", 2 / 62)]
    assert fuse([dense[:1], lexical[1:]], (1, 1), 1) == [("a", 1 / 61)]

from __future__ import annotations

import random

import pytest

from rag_clip.store.interface import Ranking
from rag_clip.store.ranking import fuse, settle_ties


def hits_of(scores: dict[str, float]) -> Ranking:
    return [(name, score, f"text {name}", "web") for name, score in scores.items()]


def engine(scores: dict[str, float], seed: int):
    """Rank by score, in random order among equals, as an engine may."""

    def rank(queries: list[int], limit: int) -> list[Ranking]:
        hits = hits_of(scores)
        random.Random(seed).shuffle(hits)
        return [sorted(hits, key=lambda hit: -hit[1])[:limit] for _query in queries]

    return rank


@pytest.mark.parametrize("limit", [1, 3, 7, 40, 100])
def test_ties_are_settled_by_id_whatever_order_the_engine_has(limit):
    scores = {f"{row:03d}": float(row < 5) for row in range(60)}
    expected = sorted(hits_of(scores), key=lambda hit: (-hit[1], hit[0]))[:limit]
    for seed in range(5):
        assert settle_ties(engine(scores, seed), [0, 1], limit) == [expected, expected]


def test_only_tied_queries_are_asked_again():
    asked = []

    def rank(queries: list[int], limit: int) -> list[Ranking]:
        asked.append((queries, limit))
        names = [f"{row:02d}" for row in range(10)]
        flat = [hits_of(dict.fromkeys(names, 1.0)), hits_of({name: -float(name) for name in names})]
        return [flat[query][:limit] for query in queries]

    settle_ties(rank, [0, 1], 2)
    assert asked == [([0, 1], 3), ([0], 12)]


def test_reciprocal_ranks_by_hand():
    dense, lexical = hits_of({"a": 0.9, "b": 0.8}), hits_of({"b": 7.0, "c": 5.0})
    assert fuse([dense, lexical], (1, 1), 3) == hits_of({"b": 1 / 62 + 1 / 61, "a": 1 / 61, "c": 1 / 62})
    assert fuse([dense, lexical], (2, 0), 3) == hits_of({"a": 2 / 61, "b": 2 / 62})
    assert fuse([dense[:1], lexical[1:]], (1, 1), 1) == hits_of({"a": 1 / 61})

"""Rankings that are the same for every engine: ties are broken by id; and reciprocal rank fusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rag_clip.store.interface import Ranking

Rank = Callable[[list[int], int], list[Ranking]]

TIE_WINDOW = 10_000
RRF_CONSTANT = 60


def settle_ties(rank: Rank, queries: Sequence[int], limit: int) -> list[Ranking]:
    """Rank queries, given by index, with equal scores in id order, also across the cut at `limit`.

    For `limit` hits, an engine may return any of those that share the last score. So one more hit is requested, and
    more until the tie ends; a tie of more than TIE_WINDOW hits is cut in the engine's order.
    """
    settled: dict[int, Ranking] = {}
    asked, widest = limit + 1, limit + TIE_WINDOW
    while waiting := [query for query in queries if query not in settled]:
        for query, ranking in zip(waiting, rank(waiting, asked), strict=True):
            if len(ranking) < asked or ranking[limit - 1][1] > ranking[-1][1] or asked == widest:
                settled[query] = sorted(ranking, key=_best_first)[:limit]
        asked = min(4 * asked, widest)
    return [settled[query] for query in queries]


def fuse(rankings: Sequence[Ranking], weights: Sequence[float], limit: int) -> Ranking:
    """Fuse rankings by reciprocal rank (Cormack, Clarke and Büttcher, SIGIR 2009).

    score(caption) = sum_i weight_i / (60 + rank_i), ranks from 1; a ranking without the caption adds 0.
    """
    scores: dict[str, float] = {}
    captions: dict[str, tuple[str, str]] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, (name, _score, text, source) in enumerate(ranking, start=1):
            scores[name] = scores.get(name, 0.0) + weight / (RRF_CONSTANT + rank)
            captions[name] = (text, source)
    order = sorted((-score, name) for name, score in scores.items() if score > 0)[:limit]
    return [(name, -negative, *captions[name]) for negative, name in order]


def _best_first(hit: tuple[str, float, str, str]) -> tuple[float, str]:
    return (-hit[1], hit[0])

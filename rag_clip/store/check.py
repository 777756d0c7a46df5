"""Is an index served as well as it could be? Its search against the comparison with every vector."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from rag_clip.data import Hit
from rag_clip.progress import Progress, Report, silent
from rag_clip.store.interface import StoreError
from rag_clip.store.store import IndexUse, Store

NOISE = 0.3
SCORE_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `check_index` found.

    `recall` is the mean share of the true k nearest that the served search returned, `recall_p05` the twentieth worst
    in a hundred queries. `served` says how the search went: `exact` (small collections) or `hnsw`. Times are seconds
    of single searches, with the texts of the hits. `count` captions were in the index.
    """

    recall: float
    recall_p05: float
    queries: int
    k: int
    seed: int
    count: int
    vector: str
    served: str
    served_p50: float
    served_p95: float
    exact_p50: float
    exact_p95: float
    query_kind: str = f"stored vectors moved by {NOISE} in a random direction"


def check_index(
    store: Store,
    *,
    queries: int = 200,
    k: int = 100,
    seed: int = 0,
    vector: str | None = None,
    index: IndexUse = "auto",
    report: Report = silent,
) -> CheckReport:
    """Measure recall@k of the served search against exact search, and note it in the card under `check`.

    The queries are stored vectors, sampled with `seed`, each moved by 0.3 of its length in a random direction: near
    the data but not in it, as a prompt is. A hit counts when its score reaches the exact k-th, so that equal captions
    may stand for one another. `index` is what is served; `auto`, as `Store.search`.

    Raises ValueError for an empty index, StoreError for one that its optimisers are not done with.
    """
    require_ready(store.info())
    name = store.card.schema.pick_vector(vector)
    vectors = _perturb(_sample(store, queries, seed, store.card.schema.columns[name]), seed)
    rounds = []
    for done, query in enumerate(vectors, start=1):
        exact, exact_seconds = _time(store, query, k, name, "exact")
        served, served_seconds = _time(store, query, k, name, index)
        rounds.append((_recall(served, exact), served_seconds, exact_seconds))
        report(Progress("check", done, len(vectors), unit="queries"))
    recalls, served_times, exact_times = np.array(rounds).T
    found = CheckReport(
        recall=float(recalls.mean()),
        recall_p05=float(np.quantile(recalls, 0.05)),
        queries=len(vectors),
        k=k,
        seed=seed,
        count=store.count(),
        vector=name,
        served="exact" if index == "exact" or (index == "auto" and store.is_small()) else "hnsw",
        served_p50=float(np.quantile(served_times, 0.5)),
        served_p95=float(np.quantile(served_times, 0.95)),
        exact_p50=float(np.quantile(exact_times, 0.5)),
        exact_p95=float(np.quantile(exact_times, 0.95)),
    )
    store.note("check", asdict(found))
    return found


def require_ready(info: Mapping[str, Any]) -> None:
    """Refuse an index, given what `Store.info` says of it, that is empty or that its optimisers are not done with."""
    location, status = info["location"], info["status"]
    if status == "empty":
        raise ValueError(f"the index at {location} holds no captions; build it first")
    if status != "ready":
        running = f" ({', '.join(info['optimisers'])})" if info.get("optimisers") else ""
        raise StoreError(f"the index at {location} is {status}{running}: optimise it, and check it when that is done")


def _sample(store: Store, count: int, seed: int, column: str) -> np.ndarray:
    """Return vectors [q, d] of the rows that follow a seeded random id, wrapping round; ids are hashes."""
    start = str(uuid.UUID(int=random.Random(seed).getrandbits(128)))
    wanted = min(count, store.count())
    size = min(wanted, 1000)
    pages: Iterator[pa.RecordBatch] = chain(
        store.scroll(batch_size=size, start=start, vectors=True), store.scroll(batch_size=size, vectors=True)
    )
    found: list[np.ndarray] = []
    for page in pages:
        found.append(page.column(column).flatten().to_numpy().reshape(len(page), -1))
        if sum(map(len, found)) >= wanted:
            break
    return np.concatenate(found)[:wanted]


def _perturb(vectors: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(vectors.shape)
    unit, direction = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (vectors, noise))
    moved = unit + NOISE * direction
    return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), np.float32)


def _time(store: Store, query: np.ndarray, k: int, vector: str, index: IndexUse) -> tuple[list[Hit], float]:
    start = time.perf_counter()
    [hits] = store.search(vectors=query[None], limit=k, vector=vector, index=index)
    return hits, time.perf_counter() - start


def _recall(served: list[Hit], exact: list[Hit]) -> float:
    worst = exact[-1].score - SCORE_TOLERANCE
    return sum(hit.score >= worst for hit in served) / len(exact)

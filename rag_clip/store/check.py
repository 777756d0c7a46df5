"""The recall of an index: its search compared with exact search over every vector."""

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
from rag_clip.progress import ProgressEvent, Report, silent
from rag_clip.store.interface import StoreError
from rag_clip.store.store import IndexUse, Store

NOISE = 0.3
SCORE_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The result of `check_index`.

    recall, recall_p05: mean over queries of recall@k, and its 5 % quantile.
    queries, k, seed: the settings.
    count: captions in the index.
    vector: name of the vector searched.
    served: how the search was done: `exact` (small collections) or `hnsw`.
    served_p50 to exact_p95: quantiles of the seconds per single search, including the texts of the hits.
    query_kind: how queries were made.
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
    """Measure recall@k of the search against exact search, and record it in the card under `check`.

    store: the index.
    queries, seed: number of stored vectors to sample as queries, and the seed. Each is moved by 0.3 of its length in a
        random direction: close to the data but not in it, like a prompt.
    k: hits per query. A hit counts as correct if its score is at least the exact k-th score, so that captions with
        equal scores are interchangeable.
    vector: name of the vector to search, by default the schema's.
    index: the search to measure, as in `Store.search`.
    report: receives progress events.

    Raises ValueError for an empty index, StoreError while its optimisers are running or waiting.
    """
    require_ready(store.info())
    name = store.card.schema.pick_vector(vector)
    vectors = _perturb(_sample(store, queries, seed, store.card.schema.columns[name]), seed)
    rounds = []
    for done, query in enumerate(vectors, start=1):
        exact, exact_seconds = _time(store, query, k, name, "exact")
        served, served_seconds = _time(store, query, k, name, index)
        rounds.append((_recall(served, exact), served_seconds, exact_seconds))
        report(ProgressEvent("check", done, len(vectors), unit="queries"))
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
    """Raise an error, given the result of `Store.info`, for an index that is empty or not fully optimised."""
    location, status = info["location"], info["status"]
    if status == "empty":
        raise ValueError(f"the index at {location} holds no captions; build it first")
    if status != "ready":
        running = f" ({', '.join(info['optimisers'])})" if info.get("optimisers") else ""
        raise StoreError(f"the index at {location} is {status}{running}: optimise it, and check it when that is done")


def _sample(store: Store, count: int, seed: int, column: str) -> np.ndarray:
    """Return vectors [q, d] of the rows from a seeded random id on, with wrap-around; ids are hashes."""
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

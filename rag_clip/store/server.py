"""A Qdrant server or cluster, over gRPC or REST; needs Qdrant 1.12 or later.

Texts are ranked by sparse vectors of our own making, as in the embedded engine, so that rankings depend neither on the
engine nor on its version. Indexes of schema version 2 are ranked by the server's BM25, which came with Qdrant 1.20.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from qdrant_client import QdrantClient, models

from rag_clip.progress import ProgressEvent, Report
from rag_clip.store.card import Card
from rag_clip.store.interface import Holding, Ranking, StoreError
from rag_clip.store.lexical import BM25, Lexical, spread
from rag_clip.store.rows import Rows
from rag_clip.store.schema import Where
from rag_clip.store.server_card import write_server_card
from rag_clip.store.server_errors import Answer, Pause, patiently, server_errors

UPLOAD_STREAMS = 3
REQUEST_POINTS = 256
REQUEST_BYTES = 4 << 20
POLL_SECONDS = 0.5
RANKING_TEXTS = (1, 20)
STATUS = {
    models.CollectionStatus.GREEN: "ready",
    models.CollectionStatus.YELLOW: "optimising",
    models.CollectionStatus.GREY: "not optimised",
    models.CollectionStatus.RED: "failed",
}


class ServerEngine:
    """One collection on a server; `client` may be any QdrantClient, `pause` sleeps for seconds between attempts.

    `version` is that of the server, major and minor.

    Requests are retried after transient errors; this is safe, since a point that is written twice is stored once.
    """

    def __init__(
        self,
        client: QdrantClient,
        collection: str,
        card: Card,
        *,
        version: tuple[int, ...] = RANKING_TEXTS,
        pause: Pause = time.sleep,
    ) -> None:
        self._client = client
        self._version = version
        self._collection = collection
        self._schema = card.schema
        self._lexical = Lexical(card.schema) if card.schema.ranks_sparse else None
        self._pause = pause

    @property
    def postings(self) -> None:
        """No folder: other clients may write to the collection."""

    def upsert(self, rows: Rows) -> None:
        """Write rows, a few requests in parallel, and wait until the server has stored them all."""
        requests = list(cut_rows(rows))
        if len(requests) == 1:
            return self._send(requests[0])
        with ThreadPoolExecutor(UPLOAD_STREAMS) as streams:
            sent = [streams.submit(self._send, request) for request in requests]
            try:
                for request in sent:
                    request.result()
            except BaseException:
                streams.shutdown(wait=False, cancel_futures=True)
                raise

    def _send(self, rows: Rows) -> None:
        payloads = [
            {name: value for name, value in zip(rows.payload, row, strict=True) if value is not None}
            for row in zip(*rows.payload.values(), strict=True)
        ]
        columns = {name: matrix.tolist() for name, matrix in rows.vectors.items()}
        vectors: list[dict[str, Any]] = [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
        if self._lexical is not None:
            for vector, (indices, values) in zip(vectors, self._lexical.documents(rows.payload["text"]), strict=True):
                if indices:
                    vector[BM25] = models.SparseVector(indices=indices, values=values)
        points = [
            models.PointStruct(id=name, vector=vector, payload=payload)
            for name, vector, payload in zip(rows.ids, vectors, payloads, strict=True)
        ]
        self._ask(lambda: self._client.upsert(self._collection, points, wait=True))

    def _ask(self, call: Callable[[], Answer]) -> Answer:
        with server_errors(self._collection):
            return patiently(call, pause=self._pause)

    def rank_vectors(
        self, vectors: np.ndarray, limit: int, *, using: str, exact: bool, where: Where, holding: Holding
    ) -> list[Ranking]:
        """Rank by similarity."""
        rescore = models.QuantizationSearchParams(rescore=True, oversampling=2.0)
        params = models.SearchParams(hnsw_ef=max(self._schema.hnsw.ef, limit), exact=exact, quantization=rescore)
        return self._rank(
            [
                models.QueryRequest(query=vector, using=using, params=params, **_bounds(limit, where, phrases))
                for vector, phrases in zip(vectors.tolist(), holding, strict=True)
            ]
        )

    def rank_texts(self, texts: Sequence[str], limit: int, *, where: Where, holding: Holding) -> list[Ranking]:
        """Rank by sparse vectors; by the server's BM25 over its text index where the schema is older.

        Raises StoreError where that is needed and the server lacks it.
        """
        if self._lexical is not None:
            queries = self._lexical.queries(texts)
            requests = [
                models.QueryRequest(
                    query=models.SparseVector(indices=query[0], values=query[1]),
                    using=BM25,
                    **_bounds(limit, where, phrases),
                )
                for query, phrases in zip(queries, holding, strict=True)
                if query[0]
            ]
            return spread(self._rank(requests) if requests else [], queries)
        if self._version < RANKING_TEXTS:
            raise StoreError(
                f"collection {self._collection!r} has schema version 2, whose texts only Qdrant "
                f"{dotted(RANKING_TEXTS)} or later ranks, and the server is {dotted(self._version)}: search by "
                "vectors, update the server, or make a copy that any server ranks with: rag-clip index copy"
            )
        return self._rank(
            [
                models.QueryRequest(query=models.TextQuery(text=text), using="text", **_bounds(limit, where, phrases))
                for text, phrases in zip(texts, holding, strict=True)
            ]
        )

    def _rank(self, requests: list[models.QueryRequest]) -> list[Ranking]:
        answers = self._ask(lambda: self._client.query_batch_points(self._collection, requests))
        return [[_hit(point) for point in answer.points] for answer in answers]

    def fetch(self, ids: Sequence[str], *, using: str | None = None) -> Rows:
        """Return the captions that exist."""
        vectors = [using] if using else False
        return self._rows(
            self._ask(lambda: self._client.retrieve(self._collection, list(ids), True, with_vectors=vectors))
        )

    def scroll(self, start: str | None, limit: int, *, vectors: bool) -> tuple[Rows, str | None]:
        """Return captions in id order."""
        records, following = self._ask(
            lambda: self._client.scroll(
                self._collection,
                offset=start,
                limit=limit,
                with_payload=True,
                with_vectors=self._names if vectors else False,
            )
        )
        return self._rows(records), None if following is None else str(following)

    def count(self) -> int:
        """Return the exact number of captions."""
        return self._ask(lambda: self._client.count(self._collection, exact=True)).count

    def optimise(self, report: Report) -> None:
        """Wait for the server's optimisers; progress is the number of vectors in graphs."""
        while True:
            info = self._describe()
            total = (info.points_count or 0) * len(self._schema.vectors)
            report(ProgressEvent("optimise", self._indexed(info), total, unit="vectors"))
            if info.status == models.CollectionStatus.GREEN:
                return
            if info.status == models.CollectionStatus.RED:
                raise StoreError(f"the optimisers of collection {self._collection!r} failed: {info.optimizer_status}")
            if info.status == models.CollectionStatus.GREY:
                self._wake()
            self._pause(POLL_SECONDS)

    def info(self) -> dict[str, Any]:
        """Return the server's counts and, while it is optimising, its running and waiting optimisers.

        A server does not report the bytes on disk.
        """
        info = self._describe()
        status = STATUS[info.status]
        return {
            "engine": "server",
            "status": status,
            "bytes": None,
            "segments": info.segments_count,
            "indexed": self._indexed(info),
            "optimisers": [] if status == "ready" else self._optimisers(),
        }

    def write_card(self, card: Card) -> None:
        """Replace the card."""
        self._ask(lambda: write_server_card(self._client, self._collection, card))

    def _optimisers(self) -> list[str]:
        try:
            found = self._ask(lambda: self._client.get_optimizations(self._collection))
        except StoreError:  # 404 before 1.17, and it is asked by REST, which may not be reachable
            return []
        running = [
            f"{run.optimizer} of {sum(segment.points_count for segment in run.segments):,} points: "
            f"{_step(run.progress)}"
            for run in found.running
        ]
        waiting = found.summary.queued_optimizations
        return running + ([f"{waiting} waiting, {found.summary.queued_points:,} points"] if waiting else [])

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _rows(self, records: list[models.Record]) -> Rows:
        payloads = [record.payload or {} for record in records]
        vectors: list[Any] = [record.vector for record in records if record.vector]
        return Rows(
            [str(record.id) for record in records],
            {name: [payload.get(name) for payload in payloads] for name in ("text", "source", *self._schema.extra)},
            {name: np.asarray([vector[name] for vector in vectors], np.float32) for name in (vectors or [()])[0]},
        )

    @property
    def _names(self) -> list[str]:
        return [vector.name for vector in self._schema.vectors]

    def _indexed(self, info: models.CollectionInfo) -> int:
        """Return the number of vectors in graphs; the server counts sparse vectors as indexed at once."""
        sparse = (info.points_count or 0) if self._lexical is not None else 0
        return max(0, (info.indexed_vectors_count or 0) - sparse)

    def _describe(self) -> models.CollectionInfo:
        return self._ask(lambda: self._client.get_collection(self._collection))

    def _wake(self) -> None:
        """Resume optimisers, which after a restart of the server wait for an update."""
        self._ask(
            lambda: self._client.update_collection(self._collection, optimizers_config=models.OptimizersConfigDiff())
        )


def dotted(version: tuple[int, ...]) -> str:
    """Return a version as people write it."""
    return ".".join(map(str, version))


def cut_rows(rows: Rows) -> Iterator[Rows]:
    """Split rows into requests of at most 256 points and 4 MiB, but at least one point."""
    width = sum(4 * matrix.shape[1] for matrix in rows.vectors.values())
    start = size = 0
    for row in range(len(rows)):
        texts = (values[row] for values in rows.payload.values())
        bytes_here = width + sum(len(text.encode()) for text in texts if isinstance(text, str))
        if row - start == REQUEST_POINTS or (row > start and size + bytes_here > REQUEST_BYTES):
            yield rows[start:row]
            start, size = row, 0
        size += bytes_here
    yield rows[start:]


def _bounds(limit: int, where: Where, phrases: Sequence[str]) -> dict[str, Any]:
    return {"limit": limit, "filter": _filter(where, phrases), "with_payload": ["text", "source"]}


def _hit(point: models.ScoredPoint) -> tuple[str, float, str, str]:
    payload = point.payload or {}
    return str(point.id), point.score, payload["text"], payload["source"]


def _step(progress: models.ProgressTree) -> str:
    """Return the innermost step that goes on, and how far it is where it says so."""
    for child in reversed(progress.children or []):
        if child.started_at and not child.finished_at:
            return _step(child)
    done = "" if progress.total is None else f", {progress.done or 0:,} of {progress.total:,}"
    return f"{progress.name.replace('_', ' ').lower()}{done}"


def _filter(where: Where, phrases: Sequence[str]) -> models.Filter | None:
    conditions: list[models.Condition] = [_condition(field, wanted) for field, wanted in where.items()]
    any_phrase: list[models.Condition] = [
        models.FieldCondition(key="text", match=models.MatchText(text=phrase)) for phrase in phrases
    ]
    return models.Filter(must=conditions, should=any_phrase or None) if conditions or any_phrase else None


def _condition(field: str, wanted: list[str] | tuple[float | None, float | None]) -> models.FieldCondition:
    if isinstance(wanted, list):
        return models.FieldCondition(key=field, match=models.MatchAny(any=wanted))
    return models.FieldCondition(key=field, range=models.Range(gte=wanted[0], lte=wanted[1]))

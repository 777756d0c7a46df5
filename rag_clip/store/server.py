"""A Qdrant server or cluster, over gRPC; needs Qdrant 1.20 or later, the first that ranks by BM25 itself.

Both engines rank texts with Qdrant's own BM25 over the text index of the payload, so they agree, and no second, sparse
copy of every caption has to be written and kept in step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from grpc import RpcError  # type: ignore[import-untyped]
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException

from rag_clip.progress import Progress, Report
from rag_clip.store.card import Card
from rag_clip.store.interface import Ranking, StoreError, Where
from rag_clip.store.rows import Rows

UPSERT_POINTS = 256
POLL_SECONDS = 0.5


class ServerEngine:
    """One collection of a server; `client` may be any QdrantClient."""

    def __init__(self, client: QdrantClient, collection: str, card: Card) -> None:
        self._client = client
        self._collection = collection
        self._schema = card.schema

    def upsert(self, rows: Rows) -> None:
        """Write rows and wait until the server has them."""
        for start in range(0, len(rows), UPSERT_POINTS):
            part = slice(start, start + UPSERT_POINTS)
            columns = {name: values[part] for name, values in rows.payload.items()}
            payloads = [
                {name: value for name, value in zip(columns, row, strict=True) if value is not None}
                for row in zip(*columns.values(), strict=True)
            ]
            vectors = {name: matrix[part].tolist() for name, matrix in rows.vectors.items()}
            batch = models.Batch(ids=list(rows.ids[part]), vectors=vectors, payloads=payloads)
            with server_errors(self._collection):
                self._client.upsert(self._collection, batch, wait=True)

    def rank_vectors(self, vectors: np.ndarray, limit: int, *, using: str, exact: bool, where: Where) -> list[Ranking]:
        """Rank by similarity."""
        rescore = models.QuantizationSearchParams(rescore=True, oversampling=2.0)
        params = models.SearchParams(hnsw_ef=max(self._schema.hnsw.ef, limit), exact=exact, quantization=rescore)
        return self._rank(
            [
                models.QueryRequest(query=vector, using=using, limit=limit, filter=_filter(where), params=params)
                for vector in vectors.tolist()
            ]
        )

    def rank_texts(self, texts: Sequence[str], limit: int, *, where: Where) -> list[Ranking]:
        """Rank by the server's BM25 over its text index."""
        return self._rank(
            [
                models.QueryRequest(query=models.TextQuery(text=text), using="text", limit=limit, filter=_filter(where))
                for text in texts
            ]
        )

    def _rank(self, requests: list[models.QueryRequest]) -> list[Ranking]:
        with server_errors(self._collection):
            answers = self._client.query_batch_points(self._collection, requests)
        return [[(str(point.id), point.score) for point in answer.points] for answer in answers]

    def fetch(self, ids: Sequence[str]) -> Rows:
        """Return the captions that exist."""
        with server_errors(self._collection):
            records = self._client.retrieve(self._collection, list(ids), with_payload=True)
        return self._rows(records)

    def scroll(self, start: str | None, limit: int, *, vectors: bool) -> tuple[Rows, str | None]:
        """Return captions in the order of ids."""
        with server_errors(self._collection):
            records, following = self._client.scroll(
                self._collection, offset=start, limit=limit, with_payload=True, with_vectors=vectors
            )
        return self._rows(records), None if following is None else str(following)

    def count(self) -> int:
        """Return the exact number of captions."""
        with server_errors(self._collection):
            return self._client.count(self._collection, exact=True).count

    def optimise(self, report: Report) -> None:
        """Wait for the server's optimisers; progress counts the vectors in graphs."""
        while True:
            info = self._describe()
            report(Progress("optimise", info.indexed_vectors_count or 0, info.points_count, unit="captions"))
            if info.status == models.CollectionStatus.GREEN:
                return
            if info.status == models.CollectionStatus.RED:
                raise StoreError(f"the optimisers of collection {self._collection!r} failed: {info.optimizer_status}")
            if info.status == models.CollectionStatus.GREY:
                self._wake()
            time.sleep(POLL_SECONDS)

    def info(self) -> dict[str, Any]:
        """Return the server's own counts; it does not tell the bytes on disk."""
        info = self._describe()
        return {
            "engine": "server",
            "status": info.status.value,
            "bytes": None,
            "segments": info.segments_count,
            "indexed": info.indexed_vectors_count or 0,
        }

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

    def _describe(self) -> models.CollectionInfo:
        with server_errors(self._collection):
            return self._client.get_collection(self._collection)

    def _wake(self) -> None:
        """Resume optimisers that a restart of the server left waiting for an update."""
        with server_errors(self._collection):
            self._client.update_collection(self._collection, optimizers_config=models.OptimizersConfigDiff())


def _filter(where: Where) -> models.Filter | None:
    conditions: list[models.Condition] = [_condition(field, wanted) for field, wanted in where.items()]
    return models.Filter(must=conditions) if conditions else None


def _condition(field: str, wanted: list[str] | tuple[float | None, float | None]) -> models.FieldCondition:
    if isinstance(wanted, list):
        return models.FieldCondition(key=field, match=models.MatchAny(any=wanted))
    return models.FieldCondition(key=field, range=models.Range(gte=wanted[0], lte=wanted[1]))


@contextmanager
def server_errors(subject: str) -> Iterator[None]:
    """Turn what the client raises into a StoreError that names the collection or the address."""
    try:
        yield
    except RpcError as error:
        reason = error.details() if hasattr(error, "details") else str(error)
        raise StoreError(
            f"the Qdrant server failed on {subject}: {reason}; is it running, with gRPC reachable?"
        ) from None
    except (ApiException, QdrantException) as error:
        raise StoreError(f"the Qdrant server failed on {subject}: {error}") from None

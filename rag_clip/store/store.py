"""The Store: captions in Qdrant, with the same interface for the embedded engine and for a server."""

from __future__ import annotations

import random
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from rag_clip.data import Hit
from rag_clip.display import counted
from rag_clip.files.identity import hash_facts
from rag_clip.files.locations import shown
from rag_clip.progress import ProgressEvent, Report, silent
from rag_clip.store.card import Card
from rag_clip.store.interface import Engine, Holding, Ranking
from rag_clip.store.posting_writer import write_postings
from rag_clip.store.postings import FUSED_DEPTH, Postings, open_postings
from rag_clip.store.ranking import Rank, fuse, settle_ties
from rag_clip.store.rows import Rows, check_rows, check_vectors
from rag_clip.store.schema import Filters, TextIndex, Where, check_where, plan_memory

QUERY_BATCH = 64
FETCH_BATCH = 1000
MOST_POSTINGS = 20_000_000  # captions; writing postings takes about 200 bytes of memory for each
POSTINGS_PAGE = 4096
POSTINGS_SAMPLE = 32

Mode = Literal["dense", "lexical", "hybrid"]
IndexUse = Literal["auto", "exact", "hnsw"]


@dataclass(frozen=True, slots=True)
class Hybrid:
    """Hybrid search with weights of the two rankings; raises ValueError for one below zero, and if both are zero."""

    dense: float = 1.0
    lexical: float = 1.0

    def __post_init__(self) -> None:
        """Check the weights."""
        if not (min(self.dense, self.lexical) >= 0 and max(self.dense, self.lexical) > 0):
            raise ValueError(f"the weights are {self.dense} and {self.lexical}; give none below zero, and one above")


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limit and the filters of a search."""

    limit: int
    where: Where
    holding: Holding | None

    def of(self, rows: Sequence[int]) -> list[list[str]]:
        """Return the phrases of the queries with these indexes."""
        return [[] if self.holding is None else list(self.holding[row]) for row in rows]


class Store:
    """Captions with their embeddings; opened with `open_store` or `create_store`; close it, or use `with`.

    Results do not depend on the order in which captions were added: equal scores come in id order.
    """

    def __init__(self, engine: Engine, card: Card, location: str) -> None:
        self._engine = engine
        self.card = card
        self.location = location
        self._postings: Postings | None = None
        self._counted: int | None = None  # the engine goes through all ids to count them

    def __repr__(self) -> str:
        return f"Store({shown(self.location)!r}, {self.card.schema.name}, encoder {self.card.encoder})"

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def upsert(self, batch: pa.RecordBatch) -> None:
        """Add captions: columns id (UUID as text), text, source, vector (list<float32>[d]), and declared payload.

        With several vectors the columns are `vector_<name>`, one for each. Payload columns may be missing or have
        nulls; columns that the schema does not declare are not stored. A caption with an existing id is replaced.
        Raises ValueError, naming ids, for vectors that are NaN, infinite, zero or of another width; then no row of the
        batch is stored.
        """
        rows = check_rows(batch, self.card.dim, self.card.schema)
        if len(rows):
            self._remove_postings()
            self._counted = None
            self._engine.upsert(rows)

    def search(
        self,
        *,
        texts: Sequence[str] | None = None,
        vectors: np.ndarray | None = None,
        limit: int = 100,
        mode: Mode | Hybrid = "dense",
        index: IndexUse = "auto",
        where: Filters | None = None,
        vector: str | None = None,
        holding: Sequence[Sequence[str]] | None = None,
    ) -> list[list[Hit]]:
        """Return at most `limit` hits per query, best first.

        texts: the queries of lexical search.
        vectors: the queries of dense search, [q, d].
        limit: hits per query.
        mode: `dense` ranks by similarity of vectors; `lexical` by BM25 (k 1.2, b 0.75), where any word may match;
            `hybrid` fuses both rankings by reciprocal rank, equally unless given as `Hybrid`.
        index: of dense search: `exact` compares with every vector, `hnsw` walks the graph if there is one, `auto` is
            exact up to the schema's full_scan_threshold.
        where: filters by payload. A keyword field must have the value, or one of the values; a number must lie in the
            range (smallest, largest), ends included, None for no bound. A missing number lies in no range.
        vector: name of the vector to compare with, by default the schema's.
        holding: a list of phrases for each query; a caption must contain all words of at least one phrase, split as in
            the text index. An empty list is no condition.

        `Hit.score` is the cosine, the BM25 score, or the fused score. Raises ValueError for queries that do not fit the
        mode, and for values out of range.
        """
        filters = check_where(where or {}, self.card.schema)
        if limit < 1:
            raise ValueError(f"limit is {limit}; ask for at least one hit")
        bounds = Bounds(limit, filters, holding)
        if mode == "dense":
            rankings = self._rank_vectors(vectors, bounds, index, vector)
        elif mode == "lexical":
            rankings = self._rank_texts(texts, bounds)
        elif mode == "hybrid" or isinstance(mode, Hybrid):
            fusion = mode if isinstance(mode, Hybrid) else Hybrid()
            rankings = self._rank_both(texts, vectors, bounds, index, fusion, vector)
        else:
            raise ValueError(f"unknown search mode {mode!r}; use dense, lexical or hybrid")
        return [[Hit(name, text, score, source) for name, score, text, source in ranking] for ranking in rankings]

    def fetch(self, ids: Sequence[str]) -> list[Hit]:
        """Return the captions with these ids, in this order, without ids that do not exist; scores are 0."""
        found: dict[str, tuple[str, str]] = {}
        for rows in self._fetch(ids):
            found.update(zip(rows.ids, zip(rows.payload["text"], rows.payload["source"], strict=True), strict=True))
        return [Hit(name, found[name][0], 0.0, found[name][1]) for name in ids if name in found]

    def vectors(self, ids: Sequence[str], *, vector: str | None = None) -> dict[str, np.ndarray]:
        """Return the float32 unit vector [d] of each existing caption, by id; `vector` as in `search`.

        Vectors are as stored: up to 1e-3 from the encoder's (float16 rounding) where they came through the shards of
        `build_index` or the schema stores float16.
        """
        using = self.card.schema.pick_vector(vector)
        found: dict[str, np.ndarray] = {}
        for rows in self._fetch(ids, using):
            matrix = rows.vectors[using]
            found.update(zip(rows.ids, matrix / np.linalg.norm(matrix, axis=1, keepdims=True), strict=True))
        return found

    def payload(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the declared payload of captions by id, without text, source and nulls."""
        found: dict[str, dict[str, Any]] = {}
        extra = self.card.schema.extra
        for rows in self._fetch(ids):
            for row, name in enumerate(rows.ids):
                values = {field: rows.payload[field][row] for field in extra}
                found[name] = {field: value for field, value in values.items() if value is not None}
        return found

    def scroll(
        self, *, batch_size: int = 1000, start: str | None = None, vectors: bool = False, payload: bool = False
    ) -> Iterator[pa.RecordBatch]:
        """Yield captions in id order, from id `start` on: columns id, text and source.

        If requested, vectors and all other declared payload columns are included, as accepted by `upsert`.
        """
        following = start
        while True:
            rows, following = self._engine.scroll(following, batch_size, vectors=vectors)
            if len(rows):
                yield rows.to_batch(self.card.schema, payload=payload)
            if following is None:
                return

    def sample(self, count: int, seed: int) -> list[Hit]:
        """Draw captions without replacement: those from a seeded random id on, with wrap-around.

        Ids are hashes, so consecutive ids are a fair sample. Returns all captions if there are fewer than `count`.
        """
        wanted = min(count, self.count())
        start: str | None = str(uuid.UUID(int=random.Random(seed).getrandbits(128)))
        found: list[Hit] = []
        while len(found) < wanted:
            rows, following = self._engine.scroll(start, min(FETCH_BATCH, wanted - len(found)), vectors=False)
            columns = zip(rows.ids, rows.payload["text"], rows.payload["source"], strict=True)
            found += [Hit(name, text, 0.0, source) for name, text, source in columns]
            start = following
        return found

    def count(self) -> int:
        """Return the number of captions."""
        self._counted = self._engine.count()
        return self._counted

    def optimise(self, report: Report = silent) -> None:
        """Build graphs, compressed vectors and, in a folder, postings; may take minutes, and can be interrupted.

        Search works before that too, more slowly, by comparing with every vector.
        """
        self._engine.optimise(report)
        count = self.count()
        if self._engine.postings is not None and 0 < count <= MOST_POSTINGS and self.postings() is None:
            self._write_postings(self._engine.postings, count, report)

    def postings(self) -> Postings | None:
        """Return the postings of the captions; None where `optimise` wrote none, or captions were added since.

        First they are compared with the engine: the number of captions, and a sample of texts and vectors.
        """
        if self._postings is None and self._engine.postings is not None and self._split_by_words():
            postings = open_postings(
                self._engine.postings, key=self._postings_key(), count=self.count(), schema=self.card.schema
            )
            if postings is not None and self._agrees(postings):
                self._postings = postings
        return self._postings

    def is_small(self) -> bool:
        """Return whether search is exact by default, because there are too few captions for a graph.

        They are counted once, and again when this Store has added captions; `count` and `info` count anew.
        """
        count = self.count() if self._counted is None else self._counted
        return self.card.schema.is_small(count, self.card.dim)

    def info(self) -> dict[str, Any]:
        """Return location, count, status, indexed vectors, bytes on disk, memory plan, last check and the card.

        The status is `empty`, `ready`, `optimising` or `not optimised` (call `optimise`). Bytes on disk are None for a
        server. `check` is the last result of `check_index`; its `current` is false if captions were added since.
        """
        count = self.count()
        facts = self._engine.info()
        check = self.card.notes.get("check")
        return {
            "location": self.location,
            "count": count,
            **facts,
            "status": facts["status"] if count else "empty",
            "memory": plan_memory(self.card.schema, self.card.dim, count),
            "check": {**check, "current": check["count"] == count} if check else None,
            "card": self.card.to_dict(),
        }

    def note(self, name: str, facts: Mapping[str, Any]) -> None:
        """Record facts (plain values, ready for JSON) in the card under a name, with the date; see `card.notes`."""
        card = self.card.with_note(name, facts)
        self._engine.write_card(card)
        self.card = card

    def close(self) -> None:
        """Flush everything and release the index; closing twice does nothing."""
        self._postings = None
        self._engine.close()

    def _split_by_words(self) -> bool:
        return self.card.schema.payload["text"] == TextIndex(kind="text")

    def _postings_key(self) -> str:
        return hash_facts({name: value for name, value in self.card.to_dict().items() if name != "notes"})

    def _agrees(self, postings: Postings) -> bool:
        using = self.card.schema.of_captions
        rows = np.unique(np.linspace(0, postings.count - 1, POSTINGS_SAMPLE).astype(int))
        captions, vectors = list(postings.captions(rows)), postings.vectors(rows)
        stored = self._engine.fetch([name for name, _text, _source in captions], using=using)
        places = {name: row for row, name in enumerate(stored.ids)}
        if len(places) < len(rows):
            return False
        order = [places[name] for name, _text, _source in captions]
        texts = [(stored.payload["text"][row], stored.payload["source"][row]) for row in order]
        same = texts == [(text, source) for _name, text, source in captions]
        return same and np.array_equal(stored.vectors[using][order], vectors)

    def _write_postings(self, folder: Path, count: int, report: Report) -> None:
        def pages() -> Iterator[pa.RecordBatch]:
            done = 0
            for page in self.scroll(batch_size=POSTINGS_PAGE, vectors=True):
                yield page
                done += len(page)
                report(ProgressEvent("postings", done, count, "captions"))

        schema = self.card.schema
        dtype = next(vector.datatype for vector in schema.vectors if vector.name == schema.of_captions)
        column, shape = schema.columns[schema.of_captions], (count, self.card.dim)
        write_postings(pages(), folder, key=self._postings_key(), shape=shape, column=column, dtype=dtype)

    def _remove_postings(self) -> None:
        """Remove the postings before captions are added; they would no longer be those of the index."""
        self._postings = None
        if self._engine.postings is not None:
            shutil.rmtree(self._engine.postings, ignore_errors=True)

    def _rank_vectors(
        self, vectors: np.ndarray | None, bounds: Bounds, index: IndexUse, vector: str | None
    ) -> list[Ranking]:
        if vectors is None:
            raise ValueError("dense search needs vectors; encode the texts, or use mode='lexical'")
        if index not in ("auto", "exact", "hnsw"):
            raise ValueError(f"unknown index use {index!r}; use auto, exact or hnsw")
        using = self.card.schema.pick_vector(vector)
        queries = check_vectors(vectors, self.card.dim, [f"query {row}" for row in range(len(vectors))])
        exact = index == "exact" or (index == "auto" and self.is_small())
        return _in_batches(
            lambda rows, asked: self._engine.rank_vectors(
                queries[rows], asked, using=using, exact=exact, where=bounds.where, holding=bounds.of(rows)
            ),
            len(queries),
            bounds,
        )

    def _rank_texts(self, texts: Sequence[str] | None, bounds: Bounds) -> list[Ranking]:
        if texts is None:
            raise ValueError("lexical search needs texts")
        return _in_batches(
            lambda rows, asked: self._engine.rank_texts(
                [texts[row] for row in rows], asked, where=bounds.where, holding=bounds.of(rows)
            ),
            len(texts),
            bounds,
        )

    def _rank_both(
        self,
        texts: Sequence[str] | None,
        vectors: np.ndarray | None,
        bounds: Bounds,
        index: IndexUse,
        fusion: Hybrid,
        vector: str | None,
    ) -> list[Ranking]:
        deep = replace(bounds, limit=max(bounds.limit, FUSED_DEPTH))
        dense = self._rank_vectors(vectors, deep, index, vector)
        lexical = self._rank_texts(texts, deep)
        if len(dense) != len(lexical):
            raise ValueError(
                f"{counted(len(lexical), 'text')} for {counted(len(dense), 'vector')}; hybrid search needs one of "
                "each per query"
            )
        return [fuse(pair, (fusion.dense, fusion.lexical), bounds.limit) for pair in zip(dense, lexical, strict=True)]

    def _fetch(self, ids: Sequence[str], using: str | None = None) -> Iterator[Rows]:
        for start in range(0, len(ids), FETCH_BATCH):
            rows = self._engine.fetch(ids[start : start + FETCH_BATCH], using=using)
            if len(rows):
                yield rows


def _in_batches(rank: Rank, queries: int, bounds: Bounds) -> list[Ranking]:
    if bounds.holding is not None and len(bounds.holding) != queries:
        raise ValueError(
            f"`holding` has phrases for {len(bounds.holding)} of {counted(queries, 'query')}; give some for each"
        )
    starts = range(0, queries, QUERY_BATCH)
    batches = [range(start, min(start + QUERY_BATCH, queries)) for start in starts]
    return [ranking for batch in batches for ranking in settle_ties(rank, batch, bounds.limit)]

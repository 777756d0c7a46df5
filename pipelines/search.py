"""Search an index by text, image, or both, and return the stored fields of each hit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import polars as pl

from rag_clip.data import Hit
from rag_clip.display import counted, html_table
from rag_clip.given import AnyEncoder, AnyIndex, OneImage, opened, to_encoder, to_image, to_queries
from rag_clip.store import Store
from rag_clip.store.queries import Mode, Query
from rag_clip.store.queries import search as search_store


@dataclass(frozen=True, slots=True)
class Answer:
    """The hits of one query, best first: rows of id, score, text, source, and further fields that are not null."""

    query: Query
    hits: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class SearchSummary:
    """The answers of an index, in the order of the queries."""

    index: str
    answers: tuple[Answer, ...]

    def to_polars(self) -> pl.DataFrame:
        """Return a row per hit: the text of its query, its rank from 1, and its stored fields."""
        columns = {"query": pl.String, "rank": pl.Int64, "score": pl.Float64, "text": pl.String, "source": pl.String}
        rows = [
            {"query": answer.query.text, "rank": rank, **hit}
            for answer in self.answers
            for rank, hit in enumerate(answer.hits, start=1)
        ]
        frame = pl.DataFrame(rows, infer_schema_length=None) if rows else pl.DataFrame(schema=columns)
        return frame.select(*columns, pl.exclude(*columns))

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"{counted(sum(len(answer.hits) for answer in self.answers), 'hit')} in {self.index} "
            f"for {counted(len(self.answers), 'text')}"
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        hits = self.to_polars().select("query", "rank", "score", "text", "source")
        return html_table(str(self), hits.iter_rows(named=True))


def search(
    index: AnyIndex,
    queries: str | Query | Sequence[str | Query] = (),
    *,
    image: OneImage | None = None,
    encoder: AnyEncoder | None = None,
    mode: Mode | None = None,
    over: Literal["text", "image"] | None = None,
    limit: int = 10,
    where: Mapping[str, Any] | None = None,
) -> SearchSummary:
    """Return at most `limit` hits for each query.

    index: a folder, the address of a Qdrant server, or an open store.
    queries: texts or `Query` values, one or several.
    image: a query of its own; with texts, it is combined with each of them.
    encoder: an encoder or the name of a model; for dense search by default the one that the index records.
    mode: by default `lexical`; `dense` if there is an encoder, an image, or `over` is "image".
    over, limit, where: as for `rag_clip.store.queries.search`.

    Raises what `rag_clip.store.queries.search` raises; TypeError for what cannot be a query, an index, an image or an
    encoder.
    """
    asked = to_queries(queries, image=None if image is None else to_image(image))
    with opened(index) as store:
        loaded = None
        if encoder is not None or needs_encoder(asked, mode, over):
            loaded = to_encoder(encoder, recorded=asdict(store.card.encoder))
        found = search_store(asked, store=store, encoder=loaded, mode=mode, over=over, limit=limit, where=where)
        answers = tuple(Answer(query, tuple(_to_rows(hits, store))) for query, hits in zip(asked, found, strict=True))
        return SearchSummary(store.location, answers)


def needs_encoder(queries: Sequence[Query], mode: Mode | None, over: Literal["text", "image"] | None) -> bool:
    """Return whether vectors are compared: as the mode says, or without a mode if an image is searched with or for."""
    if mode is not None:
        return mode != "lexical"
    return over == "image" or any(query.image is not None for query in queries)


def _to_rows(hits: Sequence[Hit], store: Store) -> list[dict[str, Any]]:
    payload = store.payload([hit.id for hit in hits])
    return [
        {"id": hit.id, "score": hit.score, "text": hit.text, "source": hit.source} | payload[hit.id] for hit in hits
    ]

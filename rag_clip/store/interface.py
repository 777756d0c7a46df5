"""The interface of the engines behind the Store: the embedded engine and the server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rag_clip.errors import RagClipError
from rag_clip.progress import Report
from rag_clip.store.card import Card
from rag_clip.store.rows import Rows
from rag_clip.store.schema import Where

Ranking = list[tuple[str, float, str, str]]
Holding = Sequence[Sequence[str]]


class StoreError(RagClipError):
    """The engine could not carry out a request: it is busy, gone, unreachable, or out of space."""


class Engine(Protocol):
    """Qdrant, embedded or on a server; the Store has checked all arguments.

    A Where maps a field to its allowed values, or to its smallest and largest number, either None for no bound.
    A Holding has a list of phrases for each query: a caption must contain all words of at least one of them; an empty
    list is no condition. A Ranking is a list of (id, score, text, source), best first; the order of equal scores is up
    to the engine. `postings` is the folder of the postings, which may be missing; None where there can be none.
    """

    @property
    def postings(self) -> Path | None:
        """The folder of the postings."""

    def upsert(self, rows: Rows) -> None:
        """Write rows, replacing those with the same id."""

    def rank_vectors(
        self, vectors: np.ndarray, limit: int, *, using: str, exact: bool, where: Where, holding: Holding
    ) -> list[Ranking]:
        """Rank captions by similarity of their vector `using` to each vector."""

    def rank_texts(self, texts: Sequence[str], limit: int, *, where: Where, holding: Holding) -> list[Ranking]:
        """Rank captions by BM25; captions with any word of the text are candidates.

        Scores that differ by rounding only are made equal, so that ties are the same in every engine.
        """

    def fetch(self, ids: Sequence[str], *, using: str | None = None) -> Rows:
        """Return the captions that exist, in any order, with the vector named `using`, or without vectors."""

    def scroll(self, start: str | None, limit: int, *, vectors: bool) -> tuple[Rows, str | None]:
        """Return up to `limit` captions in id order, from `start` on, and the next id (None at the end)."""

    def count(self) -> int:
        """Return the exact number of captions."""

    def optimise(self, report: Report) -> None:
        """Build the graphs and compressed vectors of the schema, and return when they are done."""

    def info(self) -> dict[str, Any]:
        """Return facts: engine, bytes on disk (None if unknown), segments, indexed vectors, status, optimisers.

        The status is `ready`, `optimising` or `not optimised`; `optimisers` lists running and waiting ones.
        """

    def write_card(self, card: Card) -> None:
        """Replace the card."""

    def close(self) -> None:
        """Flush everything and release the index."""

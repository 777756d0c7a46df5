"""What an engine must do for the Store; the embedded engine and the server each do it in one file."""

from __future__ import annotations

from collections.abc import Sequence
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
    """The engine could not do what was asked: busy, gone, unreachable, or out of space."""


class Engine(Protocol):
    """Qdrant, wherever it runs; the Store has checked every argument before it comes here.

    A Where maps a field to the values it may have, or to its least and greatest number, either None for no bound.
    A Holding has, for each query, phrases of which a caption must hold all words of one; none for no condition.
    A Ranking is a list of (id, score, text, source), best first, in the engine's own order among equal scores.
    """

    def upsert(self, rows: Rows) -> None:
        """Write rows, replacing those with the same id."""

    def rank_vectors(
        self, vectors: np.ndarray, limit: int, *, using: str, exact: bool, where: Where, holding: Holding
    ) -> list[Ranking]:
        """Rank captions by similarity of their vector `using` to each vector."""

    def rank_texts(self, texts: Sequence[str], limit: int, *, where: Where, holding: Holding) -> list[Ranking]:
        """Rank captions by BM25; a caption scores when it holds any word of the text."""

    def fetch(self, ids: Sequence[str], *, using: str | None = None) -> Rows:
        """Return the captions that exist, in any order, with the vector named `using`, or without vectors."""

    def scroll(self, start: str | None, limit: int, *, vectors: bool) -> tuple[Rows, str | None]:
        """Return up to `limit` captions in the order of ids, from `start` on, and the id to go on from."""

    def count(self) -> int:
        """Return the exact number of captions."""

    def optimise(self, report: Report) -> None:
        """Build what the schema asks for, and return when it is done."""

    def info(self) -> dict[str, Any]:
        """Return facts: engine, bytes on disk (None if unknown), segments, indexed vectors, status, optimisers.

        The status is one of `ready`, `optimising` and `not optimised`; `optimisers` lists what runs and waits.
        """

    def write_card(self, card: Card) -> None:
        """Replace the card."""

    def close(self) -> None:
        """Write out everything and let go."""

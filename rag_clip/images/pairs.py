"""Rows of image-caption pairs, and what a file of them offers, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from rag_clip.files.identity import FileIdentity
from rag_clip.files.locations import Place
from rag_clip.images.items import Item


class Pair(NamedTuple):
    """One row: the image as bytes or as a path, its caption or captions, its address, and what is wrong, if known.

    `key` names the row in its file: the number of a Parquet row, or the key of a webdataset sample.
    """

    image: Item
    caption: Any
    url: str
    key: str
    problem: str | None = None


class PairFile(Protocol):
    """A file of `rows` pairs, stored under the name `source`; its largest rows have about `row_bytes`."""

    @property
    def path(self) -> Place:
        """Where it lies."""

    @property
    def identity(self) -> FileIdentity:
        """Which file it is, in which state."""

    @property
    def source(self) -> str:
        """The name its pairs are stored under."""

    @property
    def rows(self) -> int:
        """How many rows it has."""

    @property
    def row_bytes(self) -> int:
        """About the size of its largest rows."""

    def read(self, sizes: Sequence[int], *, start: int) -> Iterator[list[Pair]]:
        """Yield as many rows at a time as `sizes` says, from row `start` on. Raises OSError for a damaged file."""

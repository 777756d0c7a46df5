"""Image-caption pairs, and the protocol of a file of pairs in any format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from rag_clip.files.identity import FileIdentity
from rag_clip.files.locations import Place
from rag_clip.images.items import Item


class Pair(NamedTuple):
    """One row of a file of pairs.

    image: the image as bytes, as a path, or as an error.
    caption: its caption or a list of captions.
    url: its web address, or ''.
    key: identifies the row in its file: the number of a Parquet row, or the key of a webdataset sample.
    problem: why the row cannot be used, if known.
    """

    image: Item
    caption: Any
    url: str
    key: str
    problem: str | None = None


class PairFile(Protocol):
    """A file of image-caption pairs."""

    @property
    def path(self) -> Place:
        """The path or URL of the file."""

    @property
    def identity(self) -> FileIdentity:
        """The file's identity, which changes with its content."""

    @property
    def source(self) -> str:
        """The source under which an index stores its pairs."""

    @property
    def rows(self) -> int:
        """The number of rows."""

    @property
    def row_bytes(self) -> int:
        """The approximate size of the largest rows, in bytes."""

    def read(self, sizes: Sequence[int], *, start: int) -> Iterator[list[Pair]]:
        """Yield lists of pairs of the given sizes, from row `start` on; raises OSError for a damaged file."""

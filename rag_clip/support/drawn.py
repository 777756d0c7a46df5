"""Rows drawn from labelled images: their features, bytes and references."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch.nn.functional import normalize, one_hot

from rag_clip.data import LabelSet, SeveralLabels, Support, Targets
from rag_clip.files.locations import shown
from rag_clip.images.decoding import Decoding
from rag_clip.images.features import encode_views, read_pieces
from rag_clip.images.items import Item, read_image
from rag_clip.images.rows import ImageFile
from rag_clip.images.views import CropViews, examine
from rag_clip.models.decode import ImageError
from rag_clip.progress import Progress, Report
from rag_clip.protocols import Encoder


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Labelled images: their files, and the `targets` of all n rows: int64 [n], or SeveralLabels.

    Rows are numbered across all files.
    """

    files: Sequence[ImageFile]
    labels: LabelSet
    targets: Targets
    label_column: str

    def items(self, rows: Sequence[int]) -> Iterator[list[Item]]:
        """Yield the images of ascending `rows`, in pieces."""
        start = 0
        for file in self.files:
            rows_of_file = [row - start for row in rows if start <= row < start + file.rows]
            if rows_of_file:
                yield from read_pieces(file, rows_of_file)
            start += file.rows

    def read(self, rows: Sequence[int]) -> list[bytes | None]:
        """Return the images of ascending `rows` as bytes, including those in separate files; None if unreadable."""
        items = [item for piece in self.items(rows) for item in piece]
        return [None if item is None or isinstance(item, ImageError) else read_image(item) for item in items]

    def digests(self, rows: Sequence[int]) -> set[str]:
        """Return the SHA-256 of the images of ascending `rows`, without images that cannot be read."""
        found = set()
        for item in (item for piece in self.items(rows) for item in piece):
            with suppress(OSError, ImageError):
                found.add(hashlib.sha256(read_image(item)).hexdigest())
        return found

    def references(self, rows: Sequence[int]) -> tuple[str, ...]:
        """Return `FILE#ROW` of each row."""
        ends = torch.tensor([file.rows for file in self.files]).cumsum(0)
        numbers = torch.searchsorted(ends, torch.tensor(rows), right=True).tolist()
        starts = [0, *ends.tolist()]
        return tuple(
            f"{shown(self.files[file].path)}#{row - starts[file]}" for file, row in zip(numbers, rows, strict=True)
        )


class Drawn(NamedTuple):
    """The usable images of those drawn: features float32 [m, d], rows, SHA-256; and the number of unusable images."""

    features: torch.Tensor
    rows: list[int]
    hashes: list[str]
    failed: int

    def without(self, digests: Collection[str]) -> Drawn:
        """Return the images whose SHA-256 is not in `digests`."""
        places = [place for place, digest in enumerate(self.hashes) if digest not in digests]
        rows, hashes = [self.rows[place] for place in places], [self.hashes[place] for place in places]
        return Drawn(self.features[places], rows, hashes, self.failed)


def encode_drawn(
    source: Source,
    rows: Sequence[int],
    views: CropViews,
    *,
    encoder: Encoder,
    stage: str,
    decoding: Decoding,
    report: Report,
) -> Drawn:
    """Encode images; the feature of an image is the normalised mean over its views.

    source: the labelled images.
    rows: rows to encode, ascending.
    views: the crops of an image.
    encoder: computes the features.
    stage, report: name of the stage in progress events, and their receiver.
    decoding: workers and batch size.

    Raises ValueError where no image can be used.
    """
    features, kept, hashes = [], [], []
    errors: list[str] = []
    waiting, advance = iter(rows), Progress(report=report).counting(stage, len(rows), unit="images")
    pieces = encode_views(
        source.items(rows), views, encoder=encoder, decoding=decoding, images=len(rows), examine=examine
    )
    for piece in pieces:
        if len(piece.vectors):
            features.append(normalize(torch.from_numpy(piece.vectors).mean(1), dim=-1))
        hashes += [fact.sha256 for fact in piece.facts]
        for error, row in zip(piece.errors, islice(waiting, len(piece.errors)), strict=True):
            if error is None:
                kept.append(row)
            else:
                errors.append(error)
        advance(len(piece.errors))
    if not kept:
        raise ValueError(f"no image of {len(rows)} drawn can be used; the first says: {errors[0]}")
    return Drawn(torch.cat(features), kept, hashes, len(errors))


def assemble(source: Source, drawn: Drawn, origin: str, provenance: Mapping[str, Any]) -> tuple[Support, list[int]]:
    """Return a support row of an `origin` for each distinct image, and the number of its row over all files.

    An image drawn for several classes has equal shares of them; a multi-label image has all of them.
    """
    first = {digest: place for place, digest in reversed(list(enumerate(drawn.hashes)))}
    order = sorted(first.values())
    row_of = {drawn.hashes[place]: row for row, place in enumerate(order)}
    targets = torch.zeros(len(order), len(source.labels))
    found = source.targets[list(drawn.rows)]
    several = isinstance(found, SeveralLabels)
    hot = (found.marks if isinstance(found, SeveralLabels) else one_hot(found, len(source.labels))).float()
    targets.index_add_(0, torch.tensor([row_of[digest] for digest in drawn.hashes]), hot)
    kept = [drawn.rows[place] for place in order]
    support = Support(
        source.labels,
        drawn.features[order],
        SeveralLabels(targets > 0) if several else targets / targets.sum(1, keepdim=True),
        torch.ones(len(order)),
        (origin,) * len(order),
        source.references(kept),
        provenance,
    )
    return support, kept

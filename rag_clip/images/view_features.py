"""Features of several views of each image, decoded in workers and encoded piece by piece."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rag_clip.images.decoding import Decoded, DecodePool, Examine
from rag_clip.images.encoding import MOST_WORKERS, TINY_ROWS
from rag_clip.images.features import PIECE_ROWS, decode_ahead, spans
from rag_clip.images.items import Item
from rag_clip.images.rows import ImageFile, read_rows
from rag_clip.protocols import Encoder, Preprocess

IMAGES_AHEAD = 128
NOT_FINITE = "the encoder's features are not finite; try precision fp32"


@dataclass(frozen=True, slots=True, eq=False)
class ViewFeatures:
    """Of consecutive images, as many as `errors`: unit rows float32 [m, views, d] of the m good ones, on the CPU.

    `facts` are what `examine` found of the good images.
    """

    features: torch.Tensor
    errors: tuple[str | None, ...]
    facts: tuple[Any, ...]


def encode_views(
    items: Iterable[Sequence[Item]],
    views: Preprocess,
    *,
    encoder: Encoder,
    workers: int,
    examine: Examine | None = None,
) -> Iterator[ViewFeatures]:
    """Yield the features of each piece of `items`; `views` makes [views, height, width, 3] of an image."""
    with DecodePool(views, workers=workers, examine=examine) as pool:
        for decoded in decode_ahead((list(piece) for piece in items), pool, rows=IMAGES_AHEAD):
            yield _encode(decoded, encoder)


def read_pieces(file: ImageFile, rows: Sequence[int] | None = None) -> Iterator[list[Item]]:
    """Yield the images of a file in pieces, all of them or the `rows` named, ascending."""
    wanted = range(file.rows) if rows is None else rows
    sizes = [stop - start for start, stop in spans(0, file.rows, PIECE_ROWS)]
    place = first = 0
    for table in read_rows(file, sizes, columns=[file.image]):
        chosen = []
        while place < len(wanted) and wanted[place] < first + len(table):
            chosen.append(wanted[place] - first)
            place += 1
        first += len(table)
        if chosen:
            yield file.items(table[file.image].take(chosen))
        if place == len(wanted):
            return


def choose_workers(workers: int | None, rows: int) -> int:
    """Return `workers`; where None, one per processor up to 16, or 0 for a few images."""
    if workers is not None and workers < 0:
        raise ValueError(f"workers is {workers}; it must be at least 0")
    if workers is None:
        return 0 if rows <= TINY_ROWS else min(MOST_WORKERS, os.cpu_count() or 1)
    return workers


@torch.no_grad()
def _encode(decoded: Decoded, encoder: Encoder) -> ViewFeatures:
    if decoded.pixels is None:
        return ViewFeatures(torch.zeros(0, 1, encoder.dim), decoded.errors, ())
    images, views = decoded.pixels.shape[:2]
    flat = torch.from_numpy(decoded.pixels.reshape(-1, *decoded.pixels.shape[2:])).permute(0, 3, 1, 2)
    features = encoder.encode_pixels(flat.to(encoder.device)).pooled.float().cpu().view(images, views, -1)
    finite = features.isfinite().all(2).all(1).numpy()
    errors = list(decoded.errors)
    for place in np.flatnonzero([error is None for error in errors])[~finite]:
        errors[place] = NOT_FINITE
    facts = tuple(fact for fact, good in zip(decoded.facts, finite, strict=True) if good) if decoded.facts else ()
    return ViewFeatures(features[torch.from_numpy(finite)], tuple(errors), facts)

"""Fill a cache with the features of an image file: read, decode in workers, encode in batches, store shard by shard.

Batches are cut at the same rows whether or not a run was interrupted, so that it continues to the same numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch

from rag_clip.files.features import FeatureCache, FeatureRows
from rag_clip.images.decoding import Decoded, DecodePool
from rag_clip.images.items import Item
from rag_clip.images.rows import ImageFile, read_items
from rag_clip.progress import StageClock
from rag_clip.protocols import Encoder

PIECE_ROWS = 32
PIECE_BYTES = 4 << 20
WAITING_BYTES = 128 << 20
T = TypeVar("T")


def store_features(
    file: ImageFile,
    cache: FeatureCache,
    *,
    encoder: Encoder,
    pool: DecodePool,
    batch_size: int,
    clock: StageClock,
    advance: Callable[[int], None],
) -> None:
    """Decode and encode the rows that `cache` misses; `advance` is told the rows of each batch.

    An image that cannot be used becomes an error of its row.
    """
    piece_rows = max(1, min(PIECE_ROWS, PIECE_BYTES // max(1, file.row_bytes)))
    for start, stop in cache.missing():
        sizes = [
            piece_stop - piece
            for shard in spans(start, stop, cache.shards.shard_rows)
            for batch in spans(*shard, batch_size)
            for piece, piece_stop in spans(*batch, piece_rows)
        ]
        items = _timed(read_items(file, sizes, start=start), clock)
        decoded = decode_ahead(items, pool, rows=2 * batch_size)
        for shard_start, shard_stop in spans(start, stop, cache.shards.shard_rows):
            batches, settled = [], True
            for first, end in spans(shard_start, shard_stop, batch_size):
                pieces = take_rows(decoded, end - first, count=lambda piece: len(piece.errors))
                settled = settled and not any(piece.unreadable for piece in pieces)
                clock.add("decode", sum(piece.seconds for piece in pieces) / max(1, pool.workers))
                with clock.stage("encode"):
                    batches.append(_encode(pieces, encoder))
                advance(end - first)
            with clock.stage("write"):
                cache.write(shard_start, _join(batches), settled=settled)


def spans(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut [start, stop) into pieces of `size`, the last one shorter."""
    return ((first, min(first + size, stop)) for first in range(start, stop, size))


def take_rows(pieces: Iterator[T], rows: int, *, count: Callable[[T], int]) -> list[T]:
    """Take as many pieces as make up `rows`, where `count` says how many rows a piece has."""
    taken = []
    while rows > 0 and (piece := next(pieces, None)) is not None:
        taken.append(piece)
        rows -= count(piece)
    return taken


def decode_ahead(items: Iterable[list[Item]], pool: DecodePool, *, rows: int) -> Iterator[Decoded]:
    """Decode in order, keeping the workers at most `rows` images or `WAITING_BYTES` ahead of the encoder."""
    waiting: deque[tuple[Callable[[], Decoded], int, int]] = deque()
    waiting_rows = waiting_bytes = 0
    for piece in items:
        size = sum(len(item) for item in piece if isinstance(item, bytes))
        waiting.append((pool.submit(piece), len(piece), size))
        waiting_rows, waiting_bytes = waiting_rows + len(piece), waiting_bytes + size
        while waiting and (waiting_rows > rows or waiting_bytes > WAITING_BYTES or not pool.workers):
            wait, count, size = waiting.popleft()
            waiting_rows, waiting_bytes = waiting_rows - count, waiting_bytes - size
            yield wait()
    while waiting:
        yield waiting.popleft()[0]()


@torch.no_grad()
def _encode(pieces: list[Decoded], encoder: Encoder) -> FeatureRows:
    errors = [error for piece in pieces for error in piece.errors]
    pooled = np.zeros((len(errors), encoder.dim), dtype=np.float32)
    good = np.flatnonzero([error is None for error in errors])
    if len(good):
        pixels = np.concatenate([piece.pixels for piece in pieces if piece.pixels is not None])  # [m, h, w, 3]
        channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(encoder.device)
        pooled[good] = encoder.encode_pixels(channels_first).pooled.float().cpu().numpy()
    for row in np.flatnonzero(~np.isfinite(pooled).all(axis=1)):
        errors[row] = "the encoder's features are not finite; try precision fp32"
        pooled[row] = 0
    return FeatureRows(pooled, tuple(errors))


def _join(batches: list[FeatureRows]) -> FeatureRows:
    pooled = np.concatenate([batch.pooled for batch in batches])
    return FeatureRows(pooled, tuple(error for batch in batches for error in batch.errors))


def _timed(pieces: Iterator[list[Item]], clock: StageClock) -> Iterator[list[Item]]:
    while True:
        with clock.stage("read"):
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece

"""The encode engine: read images, decode them in workers, copy them to the device and encode them in batches, in order.

It serves features of image files, image-caption pairs and views of images, which differ in their rows and outputs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch

from rag_clip.images.decoding import Decoded, DecodePool, Decoding, Examine
from rag_clip.images.items import Item
from rag_clip.images.rows import spans
from rag_clip.models.lane import Lane, lane_to
from rag_clip.progress import Progress
from rag_clip.protocols import Encoder, Preprocess

NOT_FINITE = "the encoder's features are not finite; try precision fp32"
PIECE_ROWS = 32
PIECE_BYTES = 4 << 20
WAITING_BYTES = 128 << 20
PIECES_AHEAD = 4
T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")


class Piece(NamedTuple, Generic[T]):
    """Consecutive images for one call of a worker; the values `beside` each image stay in this process."""

    items: Sequence[Item]
    beside: Sequence[T] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Encoded(Generic[T]):
    """Consecutive encoded images, of which m are good.

    vectors: of the good images, float32 [m, d], or [m, v, d] for v views of each.
    errors: the error of each image; None for a good one.
    facts: the results of `examine` for the good images.
    beside: the values beside each image.
    unreadable: whether an error may be temporary, such as a missing file.
    """

    vectors: np.ndarray
    errors: tuple[str | None, ...]
    facts: tuple[Any, ...]
    beside: tuple[T, ...]
    unreadable: bool


class EncodedShard(NamedTuple, Generic[R]):
    """Rows [start, stop) as one of `parts` per batch; `settled` if none of their errors may be temporary."""

    start: int
    stop: int
    parts: list[R]
    settled: bool


@dataclass(frozen=True, slots=True)
class ImageEngine:
    """An encoder with its decode workers; `progress` sums the seconds of stages, and `stage` names that of encoding."""

    encoder: Encoder
    pool: DecodePool
    batch_size: int
    progress: Progress
    stage: str

    def encode(self, pieces: Iterable[Piece[T]], batches: Iterable[int] | None = None) -> Iterator[Encoded[T]]:
        """Yield images in order, encoded in batches of the sizes in `batches`, or else one piece at a time.

        No piece spans two batches. Workers decode about two batches, or four pieces, ahead, and at most 128 MiB. On a
        GPU a batch is yielded when the next one has been handed over, so that the GPU does not wait for this process.
        """
        ahead = PIECES_AHEAD * PIECE_ROWS if batches is None else 2 * self.batch_size
        decoded = decode_ahead(self.progress.timed("read", pieces), self.pool, rows=ahead)
        lane = lane_to(self.encoder.device)
        begun: deque[tuple[Sequence[tuple[Decoded, Sequence[T]]], Callable[[], np.ndarray]]] = deque()
        for rows in repeat(1) if batches is None else batches:
            batch = _take(decoded, rows)
            if not batch:
                break
            seconds = sum(piece.seconds for piece, _ in batch)
            self.progress.add("decode", seconds / max(1, self.pool.workers))
            with self.progress.stage(self.stage):
                begun.append((batch, _begin(batch, self.encoder, lane)))
            if len(begun) > lane.ahead:
                yield self._finish(*begun.popleft())
        while begun:
            yield self._finish(*begun.popleft())

    def _finish(self, batch: Sequence[tuple[Decoded, Sequence[T]]], fetch: Callable[[], np.ndarray]) -> Encoded[T]:
        with self.progress.stage(self.stage):
            return _encoded(batch, fetch())

    def encode_shards(
        self,
        runs: Iterable[tuple[int, int]],
        shard_rows: int,
        *,
        read: Callable[[Sequence[int], int], Iterator[Piece[T]]],
        make: Callable[[Encoded[T]], R],
        row_bytes: int,
        advance: Callable[[int], None],
    ) -> Iterator[EncodedShard[R]]:
        """Encode ranges of rows, and yield them shard by shard.

        runs: ranges of rows [start, stop).
        shard_rows: the number of rows per shard.
        read: yields pieces with the given numbers of rows from a start row on, or smaller ones if rows are large.
        make: turns an encoded batch into a part of its shard.
        row_bytes: bytes of the largest row; a piece has at most 32 rows and about 4 MiB.
        advance: called with the number of rows of each batch.

        Batches begin at the same rows whether or not a run was interrupted, so its results are the same numbers.
        """
        piece_rows = max(1, min(PIECE_ROWS, PIECE_BYTES // max(1, row_bytes)))
        for first, last in runs:
            shards = {shard: _sizes(*shard, self.batch_size) for shard in spans(first, last, shard_rows)}
            batches = [rows for sizes in shards.values() for rows in sizes]
            pieces = read([rows for batch in batches for rows in _sizes(0, batch, piece_rows)], first)
            encoded = self.encode(pieces, batches)
            for (start, stop), sizes in shards.items():
                parts, settled = [], True
                for batch in islice(encoded, len(sizes)):
                    parts.append(make(batch))
                    settled = settled and not batch.unreadable
                    advance(len(batch.errors))
                yield EncodedShard(start, stop, parts, settled)


@contextmanager
def image_engine(
    encoder: Encoder,
    decoding: Decoding,
    *,
    images: int | None = None,
    views: Preprocess | None = None,
    examine: Examine | None = None,
    progress: Progress | None = None,
    stage: str = "encode",
) -> Iterator[ImageEngine]:
    """Start decode workers, and stop them after the block.

    encoder: encodes the images.
    decoding: the number of workers and the batch size.
    images: how many there are; None if unknown.
    views: returns pixels [v, height, width, 3] of an image; by default the encoder's preprocess, [height, width, 3].
    examine: see DecodePool.
    progress: sums the seconds of the stages.
    stage: the name of the encoding stage.

    Raises as DecodePool does.
    """
    workers = decoding.processes(images)
    with DecodePool(views or encoder.preprocess, workers=workers, examine=examine) as pool:
        yield ImageEngine(encoder, pool, decoding.batch_size, progress or Progress(), stage)


def encode_elsewhere(
    work: Callable[[Encoder, tuple[Sequence[S], Decoding], tuple[int, int, int]], tuple[int, dict[str, float]]],
    opened: Sequence[S],
    gaps: Iterable[Iterable[tuple[int, int]]],
    *,
    encoder: Encoder,
    decoding: Decoding,
    advance: Callable[[int], None],
    progress: Progress,
) -> None:
    """Have the workers of `decoding` encode what is missing, shard by shard.

    work: encodes and stores rows [start, stop) of opened[place]; it gets (opened, decoding) and (place, start, stop),
        and returns their number and the seconds of the stages.
    opened: files with their shards.
    gaps: the missing ranges of rows of each.
    advance: called with the number of rows of each shard.
    progress: gets the seconds, divided by the number of workers.
    """
    workers, rows = decoding.elsewhere, decoding.shard_rows
    assert workers is not None
    units = [(place, *each) for place, runs in enumerate(gaps) for run in runs for each in spans(*run, rows)]
    for done, seconds in workers.run(work, encoder=encoder, given=(opened, decoding.of_worker()), units=units):
        advance(done)
        for name, spent in seconds.items():
            progress.add(name, spent / workers.count)


def _sizes(start: int, stop: int, size: int) -> list[int]:
    return [end - first for first, end in spans(start, stop, size)]


def decode_ahead(pieces: Iterable[Piece[T]], pool: DecodePool, *, rows: int) -> Iterator[tuple[Decoded, Sequence[T]]]:
    """Decode in order, at most `rows` images or `WAITING_BYTES` ahead of the encoder."""
    waiting: deque[tuple[Callable[[], Decoded], Sequence[T], int, int]] = deque()
    waiting_rows = waiting_bytes = 0
    for items, beside in pieces:
        size = sum(len(item) for item in items if isinstance(item, bytes))
        waiting.append((pool.submit(items), beside, len(items), size))
        waiting_rows, waiting_bytes = waiting_rows + len(items), waiting_bytes + size
        while waiting and (waiting_rows > rows or waiting_bytes > WAITING_BYTES or not pool.workers):
            wait, beside, count, size = waiting.popleft()
            waiting_rows, waiting_bytes = waiting_rows - count, waiting_bytes - size
            yield wait(), beside
    while waiting:
        wait, beside, _, _ = waiting.popleft()
        yield wait(), beside


def _take(pieces: Iterator[tuple[Decoded, Sequence[T]]], rows: int) -> list[tuple[Decoded, Sequence[T]]]:
    """Take the next pieces, until they have `rows` rows."""
    taken = []
    while rows > 0 and (piece := next(pieces, None)) is not None:
        taken.append(piece)
        rows -= len(piece[0].errors)
    return taken


@torch.no_grad()
def _begin(pieces: Sequence[tuple[Decoded, Sequence[T]]], encoder: Encoder, lane: Lane) -> Callable[[], np.ndarray]:
    """Hand a batch to the encoder, and return a function that waits for its vectors, float32 [m, d] or [m, v, d]."""
    pixels = [decoded.pixels for decoded, _ in pieces if decoded.pixels is not None]
    if not pixels:
        return lambda: np.zeros((0, encoder.dim), np.float32)
    *views, height, width, channels = pixels[0].shape[1:]  # of [m, h, w, 3] or [m, v, h, w, 3]
    rows = [torch.from_numpy(piece.reshape(-1, height, width, channels)) for piece in pixels]
    there = lane.send(rows).permute(0, 3, 1, 2)  # [m * v, 3, h, w]
    fetch = lane.fetch(encoder.encode_pixels(there).pooled.float())
    return lambda: fetch().reshape(-1, *views, encoder.dim)


def _encoded(pieces: Sequence[tuple[Decoded, Sequence[T]]], vectors: np.ndarray) -> Encoded[T]:
    errors = [error for decoded, _ in pieces for error in decoded.errors]
    facts = [fact for decoded, _ in pieces for fact in decoded.facts]
    finite = np.isfinite(vectors).reshape(len(vectors), -1).all(1) if len(vectors) else np.zeros(0, bool)
    for row in np.flatnonzero([error is None for error in errors])[~finite]:
        errors[row] = NOT_FINITE
    return Encoded(
        vectors if finite.all() else vectors[finite],
        tuple(errors),
        tuple(fact for fact, good in zip(facts, finite, strict=True) if good) if facts else (),
        tuple(chain.from_iterable(beside for _, beside in pieces)),
        any(decoded.unreadable for decoded, _ in pieces),
    )

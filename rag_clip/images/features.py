"""Features of image files, kept in caches, and features of several views of each image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from rag_clip.files.features import FeatureCache, FeatureRows, open_features
from rag_clip.files.lock import locked
from rag_clip.images.decoding import Decoding, Examine
from rag_clip.images.encoding import PIECE_ROWS, Encoded, ImageEngine, Piece, encode_elsewhere, image_engine
from rag_clip.images.items import Item
from rag_clip.images.rows import ImageFile, read_items, read_rows, spans
from rag_clip.progress import Progress
from rag_clip.protocols import Encoder, Preprocess

Source = tuple[ImageFile, FeatureCache]


def encode_files(
    files: Sequence[ImageFile],
    root: str | Path,
    *,
    encoder: Encoder,
    decoding: Decoding,
    progress: Progress | None = None,
) -> tuple[list[Source], int]:
    """Fill a cache below `root` for each file; return files with their caches, and the number of rows encoded now.

    files: the images.
    root: the folder of the caches; rows that are there already are not encoded again.
    encoder: encodes the images.
    decoding: the number of workers and the batch size.
    progress: sums the seconds of the stages, and reports the progress.

    An image that cannot be used becomes an error of its row. Raises BusyError if another process fills the same cache.
    """
    progress = progress or Progress()
    sources = [(file, _open_cache(file, root, encoder, decoding.shard_rows)) for file in files]
    gaps = [cache.missing() for _, cache in sources]
    missing = sum(stop - start for runs in gaps for start, stop in runs)
    advance = progress.counting("encode", missing)
    if decoding.elsewhere is not None and missing:
        encode_elsewhere(
            _fill_part, sources, gaps, encoder=encoder, decoding=decoding, advance=advance, progress=progress
        )
        return sources, missing
    with image_engine(encoder, decoding, images=missing, progress=progress) as engine:
        for (file, cache), runs in zip(sources, gaps, strict=True):
            lock = cache.folder / "lock"
            if not runs and not lock.exists():  # a killed run may leave the lock of a full cache
                continue
            with locked(lock, doing=f"keep features of {file.path} in {root}"):
                _fill(file, cache, engine, cache.missing(), advance)  # another process may have written some
    return sources, missing


def _fill_part(
    encoder: Encoder, given: tuple[Sequence[Source], Decoding], unit: tuple[int, int, int]
) -> tuple[int, dict[str, float]]:
    """Encode and store a shard, in a worker; return its rows, and the seconds of the stages."""
    (sources, decoding), (place, start, stop) = given, unit
    (file, cache), progress = sources[place], Progress()
    doing = f"keep features of {file.path}"
    with (
        image_engine(encoder, decoding, progress=progress) as engine,
        locked(cache.folder / "lock", doing=doing, shared=True),
    ):
        _fill(file, cache, engine, [(start, stop)], lambda _rows: None)
    return stop - start, progress.seconds


def encode_views(
    pieces: Iterable[Sequence[Item]],
    views: Preprocess,
    *,
    encoder: Encoder,
    decoding: Decoding,
    images: int,
    examine: Examine | None = None,
) -> Iterator[Encoded[None]]:
    """Yield the features [m, v, d] of each piece.

    pieces: lists of images.
    views: returns pixels [v, height, width, 3] of an image.
    encoder: encodes the views.
    decoding: the number of workers.
    images: the number of images in all pieces.
    examine: also called for each image; see DecodePool.
    """
    with image_engine(encoder, decoding, images=images, views=views, examine=examine) as engine:
        yield from engine.encode(Piece[None](items) for items in pieces)


def read_pieces(file: ImageFile, rows: Sequence[int] | None = None) -> Iterator[list[Item]]:
    """Yield the images of a file in pieces: all, or those of `rows`, in ascending order."""
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


def _open_cache(file: ImageFile, root: str | Path, encoder: Encoder, shard_rows: int) -> FeatureCache:
    return open_features(
        root,
        encoder=encoder.fingerprint,
        source=file.identity,
        column=file.image,
        rows=file.rows,
        dim=encoder.dim,
        shard_rows=shard_rows,
    )


def _fill(
    file: ImageFile,
    cache: FeatureCache,
    engine: ImageEngine,
    runs: Sequence[tuple[int, int]],
    advance: Callable[[int], None],
) -> None:
    """Encode and store the shards of ranges of rows."""

    def read(sizes: Sequence[int], start: int) -> Iterator[Piece[None]]:
        return (Piece[None](items) for items in read_items(file, sizes, start=start))

    shards = engine.encode_shards(
        runs,
        cache.shards.shard_rows,
        read=read,
        make=lambda batch: batch,
        row_bytes=file.row_bytes,
        advance=advance,
    )
    for shard in shards:
        with engine.progress.stage("write"):
            cache.write(shard.start, _to_rows(shard.parts, cache.dim), settled=shard.settled)


def _to_rows(batches: Sequence[Encoded[None]], dim: int) -> FeatureRows:
    errors = tuple(error for batch in batches for error in batch.errors)
    pooled = np.zeros((len(errors), dim), np.float32)
    pooled[[error is None for error in errors]] = np.concatenate([batch.vectors for batch in batches])
    return FeatureRows(pooled, errors)

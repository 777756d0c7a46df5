"""Decoded pixels of training images, kept on disk: an epoch reads them in any order without decoding them again.

A file of images has shards of its rows. A shard is its pixels, raw uint8 [m, height, width, 3] of the usable rows, and
a Parquet file with the facts of its rows, which is written last: a shard without it is decoded again.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from rag_clip.corpus.clean import repair
from rag_clip.display import counted
from rag_clip.errors import disk_errors
from rag_clip.files.atomic import replacing
from rag_clip.files.folders import make_folder
from rag_clip.files.identity import FileIdentity, hash_facts
from rag_clip.files.locations import Place
from rag_clip.files.shards import RowShards, Shards
from rag_clip.images.decoding import DecodePool, Decoding
from rag_clip.images.encoding import PIECE_ROWS, Piece, decode_ahead
from rag_clip.images.pairs import PairFile
from rag_clip.images.rows import ImageFile, read_items, spans
from rag_clip.progress import Progress
from rag_clip.protocols import Preprocess

AHEAD_ROWS = 512
SCHEMA = pa.schema({"captions": pa.list_(pa.string()), "error": pa.string(), "content": pa.int64()})


class Row(NamedTuple):
    """A training image: its captions, () for labelled images, and why it cannot be used, if that is known."""

    captions: tuple[str, ...]
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A file to decode: its identity, its number of rows, and `read`, which yields pieces from a start row on."""

    path: Place
    identity: FileIdentity
    rows: int
    kind: str
    read: Callable[[Sequence[int], int], Iterator[Piece[Row]]]


def pair_source(file: PairFile) -> Source:
    """Return a file of image-caption pairs as a source."""

    def read(sizes: Sequence[int], start: int) -> Iterator[Piece[Row]]:
        for pairs in file.read(sizes, start=start):
            rows = [_pair_row(pair.caption, pair.problem) for pair in pairs]
            yield Piece([None if row.problem else pair.image for row, pair in zip(rows, pairs, strict=True)], rows)

    return Source(file.path, file.identity, file.rows, "pairs", read)


def image_source(file: ImageFile) -> Source:
    """Return a file of images without captions as a source."""

    def read(sizes: Sequence[int], start: int) -> Iterator[Piece[Row]]:
        for items in read_items(file, sizes, start=start):
            yield Piece(items, [Row(())] * len(items))

    return Source(file.path, file.identity, file.rows, f"images {file.image}", read)


def _pair_row(caption: Any, problem: str | None) -> Row:
    if problem:
        return Row((), problem)
    given = caption if isinstance(caption, list) else [caption]
    texts = tuple(text for text in (repair(each) for each in given if isinstance(each, str)) if text)
    return Row(texts, None if texts else "it has no caption")


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """The decoded images of all files, of which n can be used.

    rows: their row numbers among all rows, int64 [n].
    captions: of each image.
    contents: equal numbers for images with equal pixels, int64 [n].
    errors: why other rows cannot be used, by row number.
    """

    rows: np.ndarray
    captions: tuple[tuple[str, ...], ...]
    contents: torch.Tensor
    errors: dict[int, str]
    _maps: tuple[np.ndarray, ...]
    _starts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return uint8 pixels [b, 3, height, width] of usable images, counted from 0."""
        wanted = rows.tolist()
        places = [bisect_right(self._starts, row) - 1 for row in wanted]
        drawn = [self._maps[place][row - self._starts[place]] for row, place in zip(wanted, places, strict=True)]
        return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).contiguous()


def decode_all(
    sources: Sequence[Source], folder: Path, *, preprocess: Preprocess, decoding: Decoding, progress: Progress
) -> Pixels:
    """Decode the rows that are missing in `folder`, and return the pixels of all.

    sources: the files.
    folder: keeps the pixels; those of another preprocess or another version of a file are kept apart.
    preprocess: makes the pixels.
    decoding: the number of workers, and rows per shard.
    progress: counts the images.

    The caller must hold a lock on the folder. Raises ValueError if no image can be used; OSError if the disk is full.
    """
    total = sum(source.rows for source in sources)
    advance = progress.counting("decode", total, unit="images")
    parts: list[tuple[np.ndarray, pa.Table]] = []
    with DecodePool(preprocess, workers=decoding.processes(total)) as pool:
        for source in sources:
            store = _open(source, folder, preprocess, decoding.shard_rows)
            missing = _missing(store)
            advance(source.rows - sum(stop - start for start, stop in missing))
            for start, stop in missing:
                _decode(source, store, start, stop, pool=pool, progress=progress, advance=advance)
            parts += [(_raw(store, start), store.read(start)) for start, _ in store.spans()]
    return _join(parts)


def _decode(
    source: Source,
    store: RowShards,
    start: int,
    stop: int,
    *,
    pool: DecodePool,
    progress: Progress,
    advance: Callable[[int], None],
) -> None:
    sizes = [last - first for first, last in spans(start, stop, PIECE_ROWS)]
    images: list[np.ndarray] = []
    errors: list[str | None] = []
    rows: list[Row] = []
    unreadable = False
    for decoded, beside in decode_ahead(source.read(sizes, start), pool, rows=AHEAD_ROWS):
        progress.add("decode images", decoded.seconds / max(1, pool.workers))
        unreadable = unreadable or decoded.unreadable
        if decoded.pixels is not None:
            images.append(decoded.pixels)
        rows += beside
        errors += [row.problem or error for row, error in zip(beside, decoded.errors, strict=True)]
        advance(len(beside))
    pixels = np.concatenate(images) if images else np.zeros((0, 1, 1, 3), np.uint8)
    digests = map(_digest, pixels)
    table = pa.table(
        {
            "captions": [list(row.captions) for row in rows],
            "error": errors,
            "content": [None if error else next(digests) for error in errors],
        },
        schema=SCHEMA,
    )
    path = _raw_path(store, start)
    with disk_errors(path), replacing(path) as partial, partial.open("wb") as file:
        np.save(file, pixels)
    store.write(start, table, rows=stop - start, settled=not unreadable)


def _digest(pixels: np.ndarray) -> int:
    return int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8], "little", signed=True)


def _open(source: Source, folder: Path, preprocess: Preprocess, shard_rows: int) -> RowShards:
    facts = asdict(preprocess) if is_dataclass(preprocess) and not isinstance(preprocess, type) else repr(preprocess)
    how = hashlib.sha256(json.dumps([str(type(preprocess)), facts], default=str).encode()).hexdigest()[:16]
    key = hash_facts([*source.identity.facts, source.kind, source.rows, shard_rows])
    place = folder / how / key
    make_folder(place)
    return RowShards(Shards(place, "pixels"), source.rows, shard_rows, SCHEMA, {})


def _raw_path(store: RowShards, start: int) -> Path:
    return store.path(start).with_suffix(".npy")


def _raw(store: RowShards, start: int) -> np.ndarray:
    pixels: np.ndarray = np.load(_raw_path(store, start), mmap_mode="r")
    return pixels


def _missing(store: RowShards) -> list[tuple[int, int]]:
    """Return the shards (first row, end) whose facts or pixels are missing."""
    gaps = store.missing()
    return [
        (start, stop)
        for start, stop in store.spans()
        if any(first <= start < last for first, last in gaps) or not _has_pixels(store, start)
    ]


def _has_pixels(store: RowShards, start: int) -> bool:
    try:
        whole: bool = len(_raw(store, start)) == store.read(start)["error"].null_count
        return whole
    except (OSError, ValueError):
        return False


def _join(parts: Sequence[tuple[np.ndarray, pa.Table]]) -> Pixels:
    errors = [error for _, table in parts for error in table["error"].to_pylist()]
    good = np.flatnonzero([error is None for error in errors])
    reasons = {row: error for row, error in enumerate(errors) if error is not None}
    if not len(good):
        first = f"; the first reason is: {next(iter(reasons.values()))}" if reasons else ""
        raise ValueError(f"none of {counted(len(errors), 'image')} can be used{first}")
    captions = [tuple(each) for _, table in parts for each in table["captions"].to_pylist()]
    contents = [number for _, table in parts for number in table["content"].to_pylist() if number is not None]
    maps = [pixels for pixels, _ in parts if len(pixels)]
    starts = tuple(accumulate((len(pixels) for pixels in maps), initial=0))[:-1]
    return Pixels(good, tuple(captions[row] for row in good), torch.tensor(contents), reasons, tuple(maps), starts)

"""Turns pieces of a corpus into shards; threads clean the next and write the previous piece during encoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from rag_clip.captions.ahead import ahead
from rag_clip.captions.filter import Filter
from rag_clip.captions.pieces import Cleaned, Piece, clean_piece
from rag_clip.captions.shards import Manifest, write_shard
from rag_clip.progress import Progress
from rag_clip.protocols import Encoder

CHUNK = 2048
UNUSABLE_VECTOR = "no vector"
STORED = ("id", "text", "source", "url", "width", "height", "language", "noise")


def make_shards(
    pieces: Iterator[tuple[str, Piece]],
    cleaning: Filter,
    encoder: Encoder,
    folder: Path,
    *,
    versions: Mapping[str, int],
    progress: Progress,
    tick: Callable[[int], None],
) -> Iterator[Manifest]:
    """Clean, embed and write pieces; yield the manifests of finished shards.

    pieces: pieces with their keys.
    cleaning: the cleaning of the corpus.
    encoder: embeds the captions.
    folder: where shards are written.
    versions: of the files, by address (see `next_versions`).
    progress: collects seconds per stage.
    tick: callback with the number of rows done.

    Raises OSError where the disk is full.
    """
    done = 0
    with ahead(_prepare(pieces, cleaning, progress)) as prepared, ThreadPoolExecutor(1) as writer:
        writing: Future[Manifest] | None = None
        for key, cleaned in prepared:
            rows = cleaned.piece.rows.num_rows
            vectors = _encode(cleaned.captions, encoder, progress, partial(_tick_share, tick, done, rows))
            if writing is not None:
                yield writing.result()
            writing = writer.submit(
                _write,
                folder,
                key,
                cleaned,
                vectors,
                encoder,
                cleaning,
                versions[cleaned.piece.source.address],
                progress,
            )
            done += rows
            tick(done)
        if writing is not None:
            yield writing.result()


def _prepare(
    pieces: Iterator[tuple[str, Piece]], cleaning: Filter, progress: Progress
) -> Iterator[tuple[str, Cleaned]]:
    while True:
        with progress.stage("read"):
            key, piece = next(pieces, ("", None))
        if piece is None:
            return
        with progress.stage("clean"):
            cleaned = clean_piece(piece, cleaning.step, key)
        yield key, cleaned


def _tick_share(tick: Callable[[int], None], done: int, rows: int, share: float) -> None:
    tick(done + int(share * rows))


def _encode(captions: pa.Table, encoder: Encoder, progress: Progress, tick: Callable[[float], None]) -> np.ndarray:
    """Return vectors, float16 [t, d], NaN where the encoder's is not usable; texts are sorted by length for padding."""
    vectors = np.empty((captions.num_rows, encoder.dim), np.float16)
    texts = captions["text"].to_pylist() if captions.num_rows else []
    order = sorted(range(len(texts)), key=lambda row: (len(texts[row]), texts[row]))
    for start in range(0, len(order), CHUNK):
        rows = order[start : start + CHUNK]
        with progress.stage("embed"):
            found = encoder.encode_text([texts[row] for row in rows]).cpu().numpy()
        usable = np.isfinite(found).all(axis=1) & found.any(axis=1)
        vectors[rows] = np.where(usable[:, None], found, np.nan)
        if start + len(rows) < len(order):  # the caller reports the finished shard
            tick((start + len(rows)) / len(order))
    return vectors


def _write(
    folder: Path,
    key: str,
    cleaned: Cleaned,
    vectors: np.ndarray,
    encoder: Encoder,
    cleaning: Filter,
    version: int,
    progress: Progress,
) -> Manifest:
    usable = np.isfinite(vectors).all(axis=1)
    captions = cleaned.captions.filter(pa.array(usable))
    stored = captions.select([name for name in STORED if name in captions.column_names])
    manifest = replace(_describe(key, cleaned, stored, int((~usable).sum()), encoder, cleaning), version=version)
    with progress.stage("write shards"):
        return write_shard(folder, manifest, stored, vectors[usable], cleaned.sample)


def _describe(
    key: str, cleaned: Cleaned, stored: pa.Table, unusable: int, encoder: Encoder, cleaning: Filter
) -> Manifest:
    piece = cleaned.piece
    ids = stored["id"].to_pylist() if stored.num_rows else []
    return Manifest(
        key=key,
        url=piece.source.address,
        identity=piece.source.identity,
        start=piece.start,
        rows=piece.rows.num_rows,
        last=piece.last,
        settings=cleaning.key,
        cleaning=cleaning.settings.model_dump(mode="json"),
        encoder=encoder.fingerprint,
        dim=encoder.dim,
        kept=len(ids),
        repeated=cleaned.repeated,
        dropped={**cleaned.dropped, **({UNUSABLE_VECTOR: unusable} if unusable else {})},
        probes=tuple(ids[:1] + ids[-1:]),
        status="failed" if piece.failure else "done",
        reason=piece.failure,
    )

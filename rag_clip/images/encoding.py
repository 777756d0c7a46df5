"""Bring the features of image files into caches: what is there stays, the rest is decoded by workers and encoded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rag_clip.files.features import FeatureCache, open_features
from rag_clip.files.lock import locked
from rag_clip.images.decoding import DecodePool
from rag_clip.images.features import store_features
from rag_clip.images.rows import ImageFile
from rag_clip.progress import Report, StageClock, counting, silent
from rag_clip.protocols import Encoder

TINY_ROWS = 512
MOST_WORKERS = 16

Source = tuple[ImageFile, FeatureCache]


def encode_files(
    files: Sequence[ImageFile],
    root: str | Path,
    *,
    encoder: Encoder,
    workers: int | None = None,
    batch_size: int = 256,
    clock: StageClock | None = None,
    report: Report = silent,
) -> tuple[list[Source], int]:
    """Fill a cache below `root` for each file; return files with their caches, and the number of rows encoded now.

    `workers` processes decode; 0 decodes in this one, None is one per processor up to 16, or 0 for a few images.
    Raises ValueError for settings out of range, and BusyError where another process fills the same cache.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    sources = [(file, _open_cache(file, root, encoder)) for file in files]
    gaps = [cache.missing() for _, cache in sources]
    missing = sum(stop - start for runs in gaps for start, stop in runs)
    advance = counting("encode", report, missing)
    with DecodePool(encoder.preprocess, workers=_choose_workers(workers, missing)) as pool:
        for (file, cache), runs in zip(sources, gaps, strict=True):
            lock = cache.folder / "lock"
            if not runs and not lock.exists():  # a killed run may leave the lock of a full cache
                continue
            with locked(lock, doing=f"keep features of {file.path} in {root}"):
                store_features(
                    file, cache, encoder=encoder, pool=pool, batch_size=batch_size,
                    clock=clock or StageClock(), advance=advance,
                )  # fmt: skip
    return sources, missing


def _choose_workers(workers: int | None, rows: int) -> int:
    if workers is None:
        return 0 if rows <= TINY_ROWS else min(MOST_WORKERS, os.cpu_count() or 1)
    return workers if rows else 0


def _open_cache(file: ImageFile, root: str | Path, encoder: Encoder) -> FeatureCache:
    return open_features(
        root, encoder=encoder.fingerprint, source=file.identity, column=file.image, rows=file.rows, dim=encoder.dim
    )

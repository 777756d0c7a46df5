"""What must not be in a support set: the images about to be classified, with their hashes, features and copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rag_clip.images.facts import examine
from rag_clip.images.opening import open_image_files
from rag_clip.images.rows import ImageFile
from rag_clip.images.view_features import choose_workers, encode_views, read_pieces
from rag_clip.images.views import CopyViews, CropViews, examine_copies
from rag_clip.progress import Progress, Report, silent
from rag_clip.protocols import Encoder, Preprocess
from rag_clip.support.decontaminate import Copies, Known

COPIED = 256


def read_known(
    paths: Sequence[str | Path],
    *,
    encoder: Encoder,
    image_column: str = "image",
    workers: int | None = None,
    report: Report = silent,
) -> tuple[Known, Copies]:
    """Read the images of Parquet files, and make copies of 256 of them, spread evenly, to measure on.

    Images that cannot be used are left out. Raises ValueError as `open_image_files`, and where no image can be used.
    """
    files = open_image_files(paths, image_column=image_column)
    total = sum(file.rows for file in files)
    processes = choose_workers(workers, total)
    hashes: list[str] = []
    perceptual: list[int] = []
    features = [torch.zeros(0, encoder.dim)]
    seen = 0
    for file in files:
        items = read_pieces(file)
        whole = CropViews(encoder.preprocess, 0)
        for piece in encode_views(items, whole, encoder=encoder, workers=processes, examine=examine):
            hashes += [fact.sha256 for fact in piece.facts]
            perceptual += [int(fact.phash, 16) for fact in piece.facts]
            features.append(piece.features.reshape(-1, encoder.dim))
            seen += len(piece.errors)
            report(Progress("read what is to be classified", seen, total, "images"))
    if not hashes:
        raise ValueError(f"none of the {total} images to classify can be used; there is nothing to keep out")
    known = Known(tuple(hashes), np.array(perceptual, np.uint64), torch.cat(features))
    return known, _make_copies(files, encoder, total)


def _make_copies(files: Sequence[ImageFile], encoder: Encoder, total: int) -> Copies:
    """Copy images spread evenly over all files."""
    views: Preprocess = CopyViews(encoder.preprocess)
    wanted = np.unique(np.linspace(0, total - 1, min(COPIED, total)).astype(int))
    features: list[torch.Tensor] = []
    hashes: list[tuple[int, ...]] = []
    start = 0
    for file in files:
        rows = [int(row - start) for row in wanted if start <= row < start + file.rows]
        items = read_pieces(file, rows) if rows else iter(())
        for piece in encode_views(items, views, encoder=encoder, workers=0, examine=examine_copies):
            if piece.facts:
                features.append(piece.features)
                hashes += [fact.phash for fact in piece.facts]
        start += file.rows
    if not hashes:
        raise ValueError(f"none of {len(wanted)} images to classify, spread over all, can be used; check the files")
    return Copies(torch.cat(features), np.array(hashes, np.uint64))

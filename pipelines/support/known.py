"""What must not be in a support set: the images about to be classified, with their hashes, features and copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rag_clip.progress import Progress, Report, silent
from rag_clip.protocols import Encoder, Preprocess
from rag_clip.support.decontaminate import Known, Threshold, calibrate_cosine

from ..imaging.facts import examine
from ..imaging.rows import ImageFile, open_image_files
from ..imaging.view_features import choose_workers, encode_views, read_pieces
from ..imaging.views import CopyViews, CropViews

CALIBRATED_ON = 256


def read_known(
    paths: Sequence[str | Path],
    *,
    encoder: Encoder,
    image_column: str = "image",
    workers: int | None = None,
    report: Report = silent,
) -> tuple[Known, Threshold]:
    """Read the images of Parquet files, and measure on copies of 256 of them from which cosine on images are copies.

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
        items = read_pieces(file, image_column)
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
    return known, _calibrate(known, files, encoder, image_column, total)


def _calibrate(known: Known, files: Sequence[ImageFile], encoder: Encoder, image_column: str, total: int) -> Threshold:
    """Measure on images spread evenly over all files."""
    views: Preprocess = CopyViews(encoder.preprocess)
    copies, originals = [], []
    start = 0
    wanted = np.unique(np.linspace(0, total - 1, min(CALIBRATED_ON, total)).astype(int))
    for file in files:
        rows = [int(row - start) for row in wanted if start <= row < start + file.rows]
        items = read_pieces(file, image_column, rows) if rows else iter(())
        for piece in encode_views(items, views, encoder=encoder, workers=0, examine=examine):
            if piece.facts:
                copies.append(piece.features[:, 1:])
                originals += [fact.sha256 for fact in piece.facts]
        start += file.rows
    # Those measured on come first, as calibrate_cosine has it; an image given twice is there twice.
    place = {digest: row for row, digest in enumerate(known.sha256)}
    first = [place[digest] for digest in originals]
    order = [*first, *(row for row in range(len(known.sha256)) if row not in set(first))]
    ordered = Known(tuple(known.sha256[row] for row in order), known.phash[order], known.features[order])
    return calibrate_cosine(ordered, torch.cat(copies))

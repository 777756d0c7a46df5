"""The images to be classified, which must not be in a support set: their hashes, features and artificial copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from rag_clip.display import counted
from rag_clip.images.decoding import Decoding
from rag_clip.images.features import encode_views, read_pieces
from rag_clip.images.items import Item
from rag_clip.images.opening import Images
from rag_clip.images.rows import ImageFile
from rag_clip.images.views import CopyViews, CropViews, examine, examine_copies
from rag_clip.progress import Progress, Report, silent
from rag_clip.protocols import Encoder, Preprocess
from rag_clip.support.decontaminate import Copies, Known

COPIED = 256


def read_known(
    images: Images | str | Path | Sequence[str | Path],
    *,
    encoder: Encoder,
    decoding: Decoding = Decoding(),  # noqa: B008
    report: Report = silent,
) -> tuple[Known, Copies]:
    """Read images, and make artificial copies of 256 of them, spread evenly, for `calibrate`.

    images: paths, or `Images` where their column is not called `image`.
    encoder: computes the features.
    decoding, report: workers and batch size, and the receiver of progress events.

    Unusable images are left out. Raises ValueError as `open_image_files`, and where no image can be used.
    """
    files = (images if isinstance(images, Images) else Images(images)).open()
    total = sum(file.rows for file in files)
    advance = Progress(report=report).counting("read what is to be classified", total, unit="images")
    hashes: list[str] = []
    perceptual: list[int] = []
    features = [torch.zeros(0, encoder.dim)]
    items = chain.from_iterable(map(read_pieces, files))
    whole = CropViews(encoder.preprocess, 0)
    for piece in encode_views(items, whole, encoder=encoder, decoding=decoding, images=total, examine=examine):
        hashes += [fact.sha256 for fact in piece.facts]
        perceptual += [int(fact.phash, 16) for fact in piece.facts]
        features.append(torch.from_numpy(piece.vectors).reshape(-1, encoder.dim))
        advance(len(piece.errors))
    if not hashes:
        raise ValueError(f"none of the {counted(total, 'image')} to classify can be used; there is nothing to keep out")
    known = Known(tuple(hashes), np.array(perceptual, np.uint64), torch.cat(features))
    return known, _make_copies(files, encoder, total)


def _make_copies(files: Sequence[ImageFile], encoder: Encoder, total: int) -> Copies:
    """Make copies of images spread evenly over all files."""
    views: Preprocess = CopyViews(encoder.preprocess)
    wanted = np.unique(np.linspace(0, total - 1, min(COPIED, total)).astype(int))
    features: list[torch.Tensor] = []
    hashes: list[tuple[int, ...]] = []
    items = _spread(files, wanted)
    here = Decoding(workers=0)
    for piece in encode_views(items, views, encoder=encoder, decoding=here, images=total, examine=examine_copies):
        if piece.facts:
            features.append(torch.from_numpy(piece.vectors))
            hashes += [fact.phash for fact in piece.facts]
    if not hashes:
        raise ValueError(
            f"none of {counted(len(wanted), 'image')} to classify, spread over all, can be used; check the files"
        )
    return Copies(torch.cat(features), np.array(hashes, np.uint64))


def _spread(files: Sequence[ImageFile], wanted: np.ndarray) -> Iterator[list[Item]]:
    """Yield the images of the rows `wanted`, ascending and numbered across all files."""
    start = 0
    for file in files:
        rows = [int(row - start) for row in wanted if start <= row < start + file.rows]
        if rows:
            yield from read_pieces(file, rows)
        start += file.rows

"""Unlabelled images as evidence of the classes: a sample of the images, chosen by a hash of their features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from rag_clip.data import Features
from rag_clip.files.atomic import scratch_folder
from rag_clip.given import AnyImages, image_files, to_images
from rag_clip.images.joined import JoinedFeatures, encode_by_all
from rag_clip.images.rows import ImageFile
from rag_clip.progress import Progress
from rag_clip.protocols import Encoder
from rag_clip.refinement.sampling import sample_images

from .predictions import images_of
from .running import Running


@dataclass(frozen=True, slots=True)
class Unlabelled:
    """Images whose labels are not read, and a folder that keeps their features for later runs, such as `classify`."""

    images: AnyImages
    features_dir: str | Path | None = None

    @property
    def files(self) -> list[str | Path]:
        """The files and folders of the images."""
        return image_files(to_images(self.images))

    @contextmanager
    def encoded(
        self, encoder: Encoder, *, running: Running, progress: Progress
    ) -> Iterator[list[tuple[ImageFile, JoinedFeatures]]]:
        """Encode all images; their features can be read until the block ends.

        Raises ValueError, FileNotFoundError and OSError as `classify` does for images that cannot be used.
        """
        with ExitStack() as stack:
            root = self.features_dir or stack.enter_context(scratch_folder())
            files = to_images(self.images).open()
            yield encode_by_all(files, root, encoder=encoder, others={}, decoding=running.decoding, progress=progress)[
                0
            ]

    def sample(self, count: int, encoder: Encoder, *, running: Running, progress: Progress) -> Features:
        """Encode all images, and return a sample of `count` of them, or all if there are fewer; errors as `encoded`."""
        with self.encoded(encoder, running=running, progress=progress) as sources:
            return sample_sources(sources, encoder, count)


def sample_sources(
    sources: Sequence[tuple[ImageFile, JoinedFeatures]],
    encoder: Encoder,
    count: int,
    *,
    among: np.ndarray | None = None,
) -> Features:
    """Return `count` images of encoded files, on the encoder's device, or all if there are fewer.

    among: which rows may be taken, bool [n] over all files; None for all.
    """
    images = sample_images(_parts(sources, encoder, among), count)
    return images if images is not None else Features(torch.empty(0, encoder.dim, device=encoder.device))


def _parts(
    sources: Sequence[tuple[ImageFile, JoinedFeatures]], encoder: Encoder, among: np.ndarray | None
) -> Iterator[Features]:
    """Yield the images of each shard; their ids are rows, from 0 on, as `explain --row` counts them."""
    before = 0
    for file, cache in sources:
        for start, _ in cache.spans():
            features = cache.read(start)
            rows = features.good + (before + start)
            rows = rows if among is None else rows[among[rows]]
            images = images_of(features, rows - (before + start), encoder.device)
            yield replace(images, ids=tuple(map(str, rows.tolist())))
        before += file.rows

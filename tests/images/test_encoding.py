"""The engine that every vector of an image comes from: order, batches, errors, and the workers it asks for."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from PIL import Image

from inputs.shrink import squared
from rag_clip.data import Features
from rag_clip.images.decoding import FEW_IMAGES, MOST_WORKERS, Decoding
from rag_clip.images.encoding import NOT_FINITE, Encoded, Piece, image_engine
from rag_clip.images.views import CropViews
from rag_clip.models.decode import ImageError
from rag_clip.progress import Progress, ProgressEvent
from rag_clip.testing import ToyEncoder


@dataclass(frozen=True)
class Recording(ToyEncoder):
    """Keeps the number of rows of each batch; `bad` is the place, counted over all, of a row that is not finite."""

    batches: list[int] = field(default_factory=list)
    bad: int | None = None

    @property
    def preprocess(self):
        return squared

    def encode_pixels(self, pixels: torch.Tensor, *, patches: bool = False) -> Features:
        features = super().encode_pixels(pixels, patches=patches)
        if self.bad is not None and 0 <= self.bad - sum(self.batches) < len(pixels):
            features.pooled[self.bad - sum(self.batches)] = torch.inf
        self.batches.append(len(pixels))
        return features


def grey(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 40), (value, value // 2, 255 - value)).save(stream, "PNG")
    return stream.getvalue()


IMAGES: list[bytes | ImageError] = [ImageError("torn") if row == 4 else grey(7 * row) for row in range(23)]


def one_by_one(*rows: int) -> np.ndarray:
    return torch.cat([ToyEncoder().encode_images([grey(7 * row)]).pooled for row in rows]).numpy()


def read(sizes: Sequence[int], start: int) -> Iterator[Piece[int]]:
    for size in sizes:
        yield Piece(IMAGES[start : start + size], range(start, start + size))
        start += size


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_come_in_order_in_batches_cut_at_the_same_rows(workers: int):
    events: list[ProgressEvent] = []
    encoder, progress = Recording(), Progress(report=events.append)
    with image_engine(encoder, Decoding(workers, batch_size=4), progress=progress, stage="look") as engine:
        shards = list(
            engine.encode_shards(
                [(0, 10), (20, 23)],
                10,
                read=read,
                make=lambda batch: batch,
                row_bytes=2 << 20,  # two rows a piece
                advance=progress.counting("encode", 13),
            )
        )
    assert [(shard.start, shard.stop, shard.settled) for shard in shards] == [(0, 10, True), (20, 23, True)]
    parts = [part for shard in shards for part in shard.parts]
    assert [part.beside for part in parts] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9), (20, 21, 22)]
    assert [error for part in parts for error in part.errors if error] == ["torn"]
    assert encoder.batches == [4, 3, 2, 3]
    rows = [row for row in (*range(10), *range(20, 23)) if row != 4]
    np.testing.assert_allclose(np.concatenate([part.vectors for part in parts]), one_by_one(*rows), atol=1e-6)
    assert [(event.stage, event.done, event.total) for event in events] == [
        ("encode", done, 13) for done in (4, 8, 10, 13)
    ]
    assert set(progress.seconds) == {"read", "decode", "look"}


def test_without_batches_each_piece_is_one_and_its_views_are_an_axis():
    encoder = Recording()
    views = CropViews(encoder.preprocess, 3)
    with image_engine(encoder, Decoding(0), views=views) as engine:
        first, second = engine.encode([Piece[None](IMAGES[:2]), Piece[None]([*IMAGES[3:6], None])])
    assert encoder.batches == [6, 6]
    assert first.vectors.shape == (2, 3, encoder.dim)
    assert second.vectors.shape == (2, 3, encoder.dim)
    assert second.errors == (None, "torn", None, "the image is null")
    assert second.beside == ()


def test_vectors_that_are_not_finite_are_errors_of_their_rows_with_their_facts_left_out():
    encoder = Recording(bad=2)
    with image_engine(encoder, Decoding(0), examine=lambda data, _image: IMAGES.index(data)) as engine:
        [batch] = engine.encode([Piece(IMAGES[3:8], "abcde")], [5])
    assert batch.errors == (None, "torn", None, NOT_FINITE, None)
    assert (batch.facts, batch.beside) == ((3, 5, 7), tuple("abcde"))
    np.testing.assert_allclose(batch.vectors, one_by_one(3, 5, 7), atol=1e-6)


def test_images_that_cannot_be_used_alone_make_no_vectors():
    with image_engine(Recording(), Decoding(0)) as engine:
        [batch] = engine.encode([Piece[None](["/gone.png", None])])
    assert isinstance(batch, Encoded)
    assert batch.vectors.shape == (0, 32)
    assert batch.unreadable


def test_the_number_of_workers_depends_on_the_images_unless_it_is_said():
    every = min(MOST_WORKERS, os.cpu_count() or 1)
    images = (None, 0, FEW_IMAGES, FEW_IMAGES + 1)
    assert [Decoding().processes(each) for each in images] == [every, 0, 0, every]
    assert [Decoding(3).processes(each) for each in images] == [3, 0, 3, 3]
    assert [Decoding(0).processes(each) for each in images] == [0, 0, 0, 0]


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="workers is -1; it must be at least 0"):
        Decoding(-1)
    with pytest.raises(ValueError, match="batch_size is 0; it must be at least 1"):
        Decoding(batch_size=0)

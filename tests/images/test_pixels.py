"""Decoded pixels on disk: every usable row once, in any order, and only what is missing is decoded again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from inputs.pairs import write_pairs
from inputs.pictures import picture
from rag_clip.images.decoding import Decoding
from rag_clip.images.opening import open_image_files
from rag_clip.images.pair_files import PairColumns, open_pair_files
from rag_clip.images.pixels import Pixels, decode_all, image_source, pair_source
from rag_clip.progress import Progress
from rag_clip.testing import square_preprocess

COLOURS = ("red", "green", "red", "blue", "green")
DECODING = Decoding(0, shard_rows=2)


def write(path: Path) -> Path:
    images: list[object] = [picture(colour) for colour in COLOURS]
    images[2] = b"no image"
    return write_pairs(path, images, [f"a {colour} square" for colour in COLOURS[:-1]] + [None])


def decode(pairs: Path, folder: Path, progress: Progress | None = None) -> Pixels:
    sources = [pair_source(file) for file in open_pair_files([pairs], columns=PairColumns())]
    return decode_all(sources, folder, preprocess=square_preprocess, decoding=DECODING, progress=progress or Progress())


def test_usable_rows_have_their_pixels_captions_and_others_their_reason(tmp_path: Path) -> None:
    drawn = decode(write(tmp_path / "pairs.parquet"), tmp_path / "pixels")
    assert drawn.rows.tolist() == [0, 1, 3]
    assert drawn.captions == (("a red square",), ("a green square",), ("a blue square",))
    assert set(drawn.errors) == {2, 4}
    assert drawn.errors[4] == "it has no caption"
    shown = drawn(torch.tensor([2, 0, 0]))
    assert shown.dtype == torch.uint8
    assert shown.shape[1] == 3
    assert torch.equal(shown[1], shown[2])
    middle = shown[:, :, shown.shape[2] // 2, shown.shape[3] // 2].float()
    assert middle.tolist() == [[0, 0, 255], [255, 0, 0], [255, 0, 0]]


def test_equal_images_have_equal_contents(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.parquet", [picture("red"), picture("blue"), picture("red")], ["a", "b", "c"])
    contents = decode(pairs, tmp_path / "pixels").contents.tolist()
    assert contents[0] == contents[2] != contents[1]


def test_only_missing_shards_are_decoded_again(tmp_path: Path) -> None:
    pairs, folder = write(tmp_path / "pairs.parquet"), tmp_path / "pixels"
    first = decode(pairs, folder)
    raw = sorted(folder.rglob("*.npy"))
    written = {path: path.stat().st_mtime_ns for path in raw}
    raw[0].unlink()
    again = decode(pairs, folder)
    assert torch.equal(first(torch.arange(3)), again(torch.arange(3)))
    assert [path for path in raw if path.stat().st_mtime_ns == written[path]] == raw[1:]


def test_images_without_captions_are_decoded_too(tmp_path: Path) -> None:
    files = open_image_files([write(tmp_path / "pairs.parquet")], image_column="image")
    drawn = decode_all(
        [image_source(file) for file in files],
        tmp_path / "pixels",
        preprocess=square_preprocess,
        decoding=DECODING,
        progress=Progress(),
    )
    assert drawn.rows.tolist() == [0, 1, 3, 4]
    assert drawn.captions == ((),) * 4


def test_no_usable_image_is_refused(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.parquet", [b"no image"], ["a"])
    with pytest.raises(ValueError, match="none of 1 image can be used; the first reason is"):
        decode(pairs, tmp_path / "pixels")


def test_the_pixels_are_those_of_the_preprocess(tmp_path: Path) -> None:
    from PIL import Image

    content = picture("green")
    (tmp_path / "green.png").write_bytes(content)
    drawn = decode(write_pairs(tmp_path / "pairs.parquet", [content], ["green"]), tmp_path / "pixels")
    wanted = square_preprocess(Image.open(tmp_path / "green.png").convert("RGB"))
    assert np.array_equal(drawn(torch.tensor([0]))[0].permute(1, 2, 0).numpy(), wanted)

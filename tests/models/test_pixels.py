"""The image transform: torch's resizing beside Pillow's, which is the reference, and the reduction of large JPEGs."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageOps

from inputs.folders import SHARED
from rag_clip.models.decode import decode_image
from rag_clip.models.open_clip import load_encoder
from rag_clip.models.pixels import CentreCrop, PixelTransform

PHOTOGRAPHS = SHARED / "data/images/caltech101_5_per_class.parquet"
SHAPES = ((50, 70), (71, 50), (48, 48), (20, 300), (1, 1), (33, 47), (500, 375), (3, 2000), (901, 1203), (40, 20))
by_torch_here = PixelTransform(1, 1).resampler == "torch"
needs_torch = pytest.mark.skipif(not by_torch_here, reason="torch resizes only on x86-64 with AVX2")


def noise(*shape: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8))


def by_pillow(transform: PixelTransform, image: Image.Image) -> np.ndarray:
    """The transform as version 0.1.0 had it, with Pillow alone."""
    size = (transform.width, transform.height)
    limit = 32 * min(image.size)
    if transform.resize_mode == "shortest" and max(image.size) > limit:
        image = centre(image, (min(image.width, limit), min(image.height, limit)))
    resampling = Image.Resampling.BILINEAR if transform.interpolation == "bilinear" else Image.Resampling.BICUBIC
    image = image.resize(transform._resized(*image.size), resampling)
    missing = [max(0, wanted - have) for wanted, have in zip(size, image.size, strict=True)]
    borders = (missing[0] // 2, missing[1] // 2, (missing[0] + 1) // 2, (missing[1] + 1) // 2)
    return np.asarray(centre(ImageOps.expand(image, borders, (transform.fill,) * 3), size))


def centre(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    left, top = (round((have - wanted) / 2) for wanted, have in zip(size, image.size, strict=True))
    return image.crop((left, top, left + size[0], top + size[1]))


def differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.abs(first.astype(int) - second.astype(int))
    return found


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(48, 48), (56, 32)])
@pytest.mark.parametrize("vectors", [True, False])
def test_pixels_are_within_two_grey_levels_of_pillows_and_equal_without_vector_instructions(
    mode: Literal["shortest", "squash", "longest"],
    interpolation: Literal["bicubic", "bilinear"],
    size: tuple[int, int],
    vectors: bool,
    monkeypatch: pytest.MonkeyPatch,
):
    transform = PixelTransform(*size, mode, interpolation, 7)
    if not vectors:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    elif not by_torch_here:
        pytest.skip("torch resizes only on x86-64 with AVX2")
    by_torch = vectors and mode != "squash"
    assert transform.resampler == CentreCrop(transform, 4, 4).resampler == ("torch" if by_torch else "pillow")
    for shape in SHAPES:
        image = noise(*shape)
        found = transform(image)
        assert (found.shape, found.dtype, found.flags.c_contiguous) == ((*size, 3), np.uint8, True)
        assert differences(found, by_pillow(transform, image)).max() <= 2 * by_torch, shape
        cropped = CentreCrop(transform, 40, 60)(image)
        assert cropped.shape == (40, 60, 3)


@needs_torch
def test_features_of_photographs_are_those_of_pillows_pixels():
    if not PHOTOGRAPHS.exists():
        pytest.skip("needs ../shared")
    encoder = load_encoder("demo", device="cpu")
    images = [decode_image(data) for data in pq.read_table(PHOTOGRAPHS)["image"].to_pylist()[::25]]
    pixels = [np.stack([make(image) for image in images]) for make in (encoder.preprocess, by_pillow_of(encoder))]
    assert differences(*pixels).max() <= 2
    assert differences(*pixels).mean() < 0.01
    first, second = (encoder.encode_pixels(torch.from_numpy(each).permute(0, 3, 1, 2)).pooled for each in pixels)
    assert (1 - (first.double() * second.double()).sum(1)).max() < 5e-6


def by_pillow_of(encoder):
    return lambda image: by_pillow(encoder.preprocess, image)


def jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        ((2016, 1344), (1008, 672)),  # both sides can be halved
        ((2017, 1344), (2017, 1344)),  # they cannot, and half is below 1024
        ((2015, 1343), (2015, 1343)),
        ((3600, 2688), (900, 672)),
        ((3601, 2689), (1801, 1345)),
    ],
)
def test_a_jpeg_is_reduced_to_three_times_the_encoders_side_if_its_sides_can_be_divided(
    size: tuple[int, int], decoded: tuple[int, int]
):
    data = jpeg(Image.new("RGB", size))
    assert decode_image(data, least_side=PixelTransform(224, 224).least_side).size == decoded


def test_the_least_side_is_three_times_that_of_the_encoder_within_bounds():
    sides = [PixelTransform(side, side).least_side for side in (48, 224, 256, 336, 448)]
    assert sides == [672, 672, 768, 1008, 1024]
    assert CentreCrop(PixelTransform(256, 256), 224, 224).least_side == 768


def test_a_reduced_photograph_gives_nearly_the_same_pixels():
    transform = PixelTransform(224, 224)
    sharp = noise(80, 120).resize((2016, 1344), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(2).normal(0, 20, (1344, 2016, 3))
    data = jpeg(Image.fromarray((np.asarray(sharp) + grain).clip(0, 255).astype(np.uint8)))
    whole, reduced = decode_image(data), decode_image(data, least_side=transform.least_side)
    assert (whole.size, reduced.size) == ((2016, 1344), (1008, 672))
    assert differences(transform(whole), transform(reduced)).max() <= 5
    assert differences(transform(whole), transform(reduced)).mean() < 1

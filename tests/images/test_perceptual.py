"""perceptual_hash: what it does not see, and what it tells apart."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from rag_clip.images.perceptual import hash_distances, perceptual_hash


def scene(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Draw smooth random colours, with the low frequencies that photographs have."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def compressed(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def distance(first: Image.Image, second: Image.Image) -> int:
    return (perceptual_hash(first) ^ perceptual_hash(second)).bit_count()


def test_the_hash_follows_the_transform_written_out_in_full():
    image = scene(3).convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    values = np.asarray(image, np.float64)
    spectrum = np.array(
        [
            [
                sum(
                    values[y, x] * np.cos(np.pi * (2 * y + 1) * row / 64) * np.cos(np.pi * (2 * x + 1) * column / 64)
                    for y in range(32)
                    for x in range(32)
                )
                for column in range(1, 9)
            ]
            for row in range(1, 9)
        ]
    )
    bits = "".join("1" if value > np.median(spectrum) else "0" for value in spectrum.reshape(-1))
    assert perceptual_hash(image) == int(bits, 2)


def test_half_of_the_bits_are_set():
    assert perceptual_hash(scene(1)).bit_count() == 32


@pytest.mark.parametrize("colour", ["black", "white", "red"])
def test_one_colour_has_no_structure_and_is_zero(colour: str):
    assert perceptual_hash(Image.new("RGB", (50, 30), colour)) == 0


@pytest.mark.parametrize("seed", range(5))
def test_copies_differ_in_at_most_eight_bits(seed: int):
    image = scene(seed)
    copies = [
        image.resize((80, 60), Image.Resampling.BICUBIC),
        image.resize((320, 240), Image.Resampling.BICUBIC),
        compressed(image, 30),
        ImageEnhance.Brightness(image).enhance(0.8),
        image.convert("L"),
    ]
    assert [distance(image, copy) for copy in copies if distance(image, copy) > 8] == []


def test_different_images_lie_near_thirty_two_bits_apart():
    hashes = np.array([perceptual_hash(scene(seed)) for seed in range(60)], np.uint64)
    distances = hash_distances(hashes, hashes)[np.triu_indices(60, 1)]
    assert 30 < distances.mean() < 34
    assert distances.min() > 10


def test_mirrored_images_are_told_apart():
    image = scene(2)
    assert distance(image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) > 16


def test_distances_count_the_bits_of_every_pair():
    first = np.array([0, 2**64 - 1], np.uint64)
    second = np.array([0, 1, 2**63], np.uint64)
    assert hash_distances(first, second).tolist() == [[0, 1, 1], [64, 63, 63]]

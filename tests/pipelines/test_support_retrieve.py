from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from inputs.pictures import COLOURS, LightEncoder, colour_prompts, encoded
from rag_clip.data import Prompts
from rag_clip.files.support import read_support
from rag_clip.images.perceptual import hash_distances
from rag_clip.pipelines.captions import build_index
from rag_clip.pipelines.images import index_images
from rag_clip.pipelines.running import Running
from rag_clip.pipelines.support_retrieve import retrieve_support
from rag_clip.support.concentrate import Concentration
from rag_clip.support.known import read_known
from rag_clip.support.retrieved import ImageSearch, Search
from rag_clip.testing import check_support

ENCODER = LightEncoder()
PER_COLOUR = 6


def tinted(colour: str, seed: int) -> Image.Image:
    """A coarse pattern over a colour: every seed has another perceptual hash, and nearly the same feature."""
    pattern = np.random.default_rng(seed).integers(-60, 60, (6, 6, 3))
    pixels = np.clip(np.array(COLOURS[colour]) * 0.6 + 60 + pattern, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((48, 48), Image.Resampling.NEAREST)


def files_of(colours: list[str], start: int = 0) -> list[bytes]:
    return [encoded(tinted(name, start + row)) for row, name in enumerate(colours)]


def write(path: Path, images: list[bytes], captions: list[str]) -> Path:
    pq.write_table(pa.table({"image": pa.array(images, pa.binary()), "caption": captions}), path)
    return path


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    names = list(COLOURS) * PER_COLOUR
    captions = [f"a {name} thing {row}" for row, name in enumerate(names)]
    path = write(folder / "pairs.parquet", files_of(names), captions)
    index_images([path], index=folder / "index", encoder=ENCODER, noise=False, running=Running(0))
    return folder / "index"


LOOSE = Concentration(limit=4, near_cosine=1.0)


@pytest.mark.parametrize("search", ["class", "texts", "captions"])
def test_images_found_for_a_class_are_of_it(index: Path, tmp_path: Path, search: Search):
    prompts = colour_prompts()
    summary = retrieve_support(
        prompts,
        output=tmp_path / "s.parquet",
        index=str(index),
        encoder=ENCODER,
        settings=LOOSE,
        search=ImageSearch(search, PER_COLOUR),
    )
    support = read_support(tmp_path / "s.parquet", encoder=ENCODER.fingerprint)
    check_support(support, prompts.labels)
    assert (summary.images, summary.classes, summary.candidates) == (12, 3, 3 * PER_COLOUR)
    assert (summary.agreement, summary.fallen_back) == (dict.fromkeys(COLOURS, 1.0), ())
    assert summary.dropped == {"beyond the limit": 6}
    cosines = support.features @ ENCODER.encode_text(list(COLOURS)).T
    assert torch.equal(cosines.argmax(1), support.shares.argmax(1))
    assert support.provenance["settings"]["search"] == search


def test_a_name_that_finds_other_things_falls_back_to_its_text(index: Path, tmp_path: Path):
    summary = retrieve_support(
        colour_prompts("red", "blue", "zebra"),
        output=tmp_path / "s.parquet",
        index=str(index),
        encoder=ENCODER,
        settings=LOOSE,
        search=ImageSearch("class", PER_COLOUR),
    )
    assert (summary.fallen_back, summary.missing, summary.classes) == (("zebra",), ("zebra",), 2)


def test_images_to_classify_and_their_copies_are_kept_out(index: Path, tmp_path: Path):
    same = encoded(tinted("red", 0))
    smaller = encoded(tinted("green", 1).resize((40, 40), Image.Resampling.BICUBIC), "JPEG")
    test = write(tmp_path / "test.parquet", [same, smaller, *files_of(["red", "blue"], start=900)], [""] * 4)
    summary = retrieve_support(
        colour_prompts(),
        output=tmp_path / "s.parquet",
        index=str(index),
        encoder=ENCODER,
        settings=Concentration(near_cosine=1.0),
        against=[test],
        search=ImageSearch("class", PER_COLOUR),
    )
    found = summary.containment
    assert found is not None
    assert (found.known, found.contained, found.rate, found.exact) == (4, 2, 0.5, 1)
    assert found.perceptual + found.cosine == 1
    assert summary.dropped == {"copy of an image to classify": 2}
    assert summary.images == 3 * PER_COLOUR - 2
    assert read_support(tmp_path / "s.parquet").provenance["containment"]["contained"] == 2


def test_what_is_to_be_classified_is_read_with_its_copies_measured(tmp_path: Path):
    images = files_of(["red", "green", "blue"])
    path = write(tmp_path / "test.parquet", [images[0], b"broken", *images], [""] * 5)
    known, copies = read_known([path], encoder=ENCODER)
    assert len(known.sha256) == 4
    assert len(set(known.sha256)) == 3
    assert known.features.shape == (4, ENCODER.dim)
    assert copies.features.shape == (4, 6, ENCODER.dim)
    assert copies.phash[:, 0].tolist() == known.phash.tolist()
    assert (hash_distances(copies.phash[0, :1], copies.phash[0]) <= 14).all()
    with pytest.raises(ValueError, match="none of the 1 image to classify can be used"):
        read_known([write(tmp_path / "bad.parquet", [b"x"], [""])], encoder=ENCODER)


def test_an_index_without_images_of_another_encoder_or_without_a_hit_is_refused(index: Path, tmp_path: Path):
    def ask(prompts: Prompts, where: Path, **settings: Any) -> None:
        options: dict[str, Any] = {"output": tmp_path / "s.parquet", "encoder": ENCODER, **settings}
        retrieve_support(prompts, index=str(where), **options)

    pq.write_table(pa.table({"caption": ["a red thing"]}), tmp_path / "captions.parquet")
    build_index([tmp_path / "captions.parquet"], index=tmp_path / "captions", encoder=ENCODER)
    with pytest.raises(ValueError, match="image"):
        ask(colour_prompts(), tmp_path / "captions")
    with pytest.raises(ValueError, match="encoder"):
        ask(colour_prompts(encoder=LightEncoder(dim=8)), index, encoder=LightEncoder(dim=8))
    with pytest.raises(ValueError, match="no image for any class when searched by 'captions'; search in another"):
        ask(colour_prompts("zebra"), index, search="captions")
    assert not (tmp_path / "s.parquet").exists()


def test_the_same_image_under_two_captions_counts_once(tmp_path: Path):
    images = files_of(["red", "red"])
    path = write(tmp_path / "pairs.parquet", [images[0], images[0], images[1]], ["red a", "red b", "red c"])
    index_images([path], index=tmp_path / "index", encoder=ENCODER, noise=False, running=Running(0))
    summary = retrieve_support(
        colour_prompts("red", "blue"), output=tmp_path / "s.parquet", index=str(tmp_path / "index"), encoder=ENCODER,
        settings=LOOSE,
    )  # fmt: skip
    assert summary.images == 2
    assert summary.dropped["near copy of an image of the class"] == 2

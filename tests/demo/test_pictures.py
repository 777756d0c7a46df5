from __future__ import annotations

from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from rag_clip.demo.concepts import concepts
from rag_clip.demo.make import TEST_SEEDS, VALIDATION_SEED
from rag_clip.demo.pictures import PICTURE_SEED, named_captions, write_pictures
from rag_clip.models.decode import decode_image
from rag_clip.models.open_clip import load_encoder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "pictures.parquet"
    assert write_pictures(path, per_concept=1) == 360
    return path


def test_every_concept_has_photographs_for_captions_that_name_it_always_the_same(written: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "again.parquet", per_concept=1)
    assert (tmp_path / "again.parquet").read_bytes() == written.read_bytes()
    pictures = pl.read_parquet(written)
    assert pictures.columns == ["id", "image", "caption", "source", "url"]
    assert pictures["url"][359] == "pictures.parquet#row=359"
    captions = named_captions(1)
    assert set(captions["concept"]) == {concept.name for concept in concepts()}
    assert decode_image(pictures["image"][0]).size == (64, 64)


def test_no_render_seed_is_one_of_a_test_a_validation_or_a_training_photograph() -> None:
    assert PICTURE_SEED > max(*TEST_SEEDS, VALIDATION_SEED) >= 2**62


def test_photographs_show_what_their_caption_names_and_something_else_where_it_is_wrong(written: Path) -> None:
    images = pl.read_parquet(written)["image"].to_list()
    truth = named_captions(1)
    head = {concept.name for concept in concepts() if concept.band == "head"}
    rows = [row for row, name in enumerate(truth["concept"]) if name in head]
    encoder = load_encoder("demo", device="cpu")
    names = [concept.name for concept in concepts()]
    logits = encoder.encode_images([images[row] for row in rows]).pooled @ encoder.encode_text(names).T
    seen = [names[place] == truth["concept"][row] for row, place in zip(rows, logits.argmax(1).tolist(), strict=True)]
    right = Counter(ok for row, ok in zip(rows, seen, strict=True) if not truth["wrong"][row])
    assert right[True] / right.total() > 0.7
    assert sum(ok for row, ok in zip(rows, seen, strict=True) if truth["wrong"][row]) == 0

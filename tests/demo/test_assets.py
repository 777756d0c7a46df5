"""The bundled files are what the code makes, within their limits, and keep the truth apart."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors import safe_open

from rag_clip.demo import make
from rag_clip.demo.concepts import BANDS, WORLD_SEED, concepts
from rag_clip.files.labels import read_labels, write_labels
from rag_clip.models.open_clip import load_encoder

ASSETS = Path(str(files("rag_clip.demo"))) / "assets"


@pytest.fixture(scope="module")
def corpus() -> pl.DataFrame:
    return pl.read_parquet(ASSETS / "corpus.parquet")


@pytest.fixture(scope="module")
def truth() -> pl.DataFrame:
    return pl.read_parquet(ASSETS / "truth.parquet")


def test_the_world_stays_within_fifteen_megabytes_and_each_model_within_its_own_limit() -> None:
    sizes = Counter[str]()
    for path in ASSETS.rglob("*"):
        if path.is_file():
            sizes[path.relative_to(ASSETS).parts[0]] += path.stat().st_size
    assert sizes.pop("painter") < 8e6
    assert sizes.pop("second") < 2e6
    assert sizes["model"] < 8e6
    assert sum(sizes.values()) < 15e6


def test_the_checkpoint_has_less_than_three_million_parameters_in_half_precision() -> None:
    with safe_open(ASSETS / "model" / "open_clip_model.safetensors", "pt") as checkpoint:
        names = list(checkpoint.keys())
        tensors = [checkpoint.get_tensor(name) for name in names]
    assert sum(tensor.numel() for tensor in tensors) < 3e6
    assert {str(tensor.dtype) for tensor in tensors} == {"torch.float16"}


def test_the_training_log_ends_with_a_head_above_85_percent() -> None:
    lines = [json.loads(line) for line in (ASSETS / "model" / "train.log").read_text().splitlines()]
    assert lines[-1]["step"] == lines[0]["steps"]
    assert lines[-1]["head"] > 0.85


def test_the_corpus_is_the_one_that_the_code_writes(corpus: pl.DataFrame, truth: pl.DataFrame) -> None:
    rows = make.corpus_rows(np.random.default_rng([WORLD_SEED, 3]))
    assert corpus["caption"].to_list() == [caption for caption, *_ in rows]
    assert truth.select("concept", "kind", "wrong").rows() == [tuple(hidden) for _, *hidden in rows]


def test_the_corpus_shows_captions_and_hides_the_truth(corpus: pl.DataFrame, truth: pl.DataFrame) -> None:
    assert corpus.columns == ["id", "caption", "source"]
    assert len(corpus) >= 50_000
    assert corpus["id"].to_list() == truth["id"].to_list()
    assert set(corpus["source"].unique()) == set(make.SOURCES)


def test_every_concept_is_spoken_of_and_the_unseen_too(truth: pl.DataFrame) -> None:
    counts = Counter(truth["concept"].to_list())
    least = {band: min(counts[c.name] for c in concepts() if c.band == band) for band in BANDS}
    assert all(least[band] >= make.FLOOR[band] for band in BANDS)


def test_the_corpus_is_as_dirty_as_the_web(truth: pl.DataFrame, corpus: pl.DataFrame) -> None:
    kinds = Counter(truth["kind"].to_list())
    assert kinds["boilerplate"] > 1000
    assert kinds["foreign"] > 500
    assert kinds["ordinary"] > 500
    assert truth["wrong"].sum() > 1000
    assert (corpus["caption"] == "").sum() > 50
    assert len(corpus) - corpus["caption"].n_unique() > 2000


def test_the_label_set_is_the_worlds(tmp_path: Path) -> None:
    write_labels(make.label_set(), tmp_path / "labels.json")
    assert read_labels(ASSETS / "labels.json") == make.label_set()
    assert (ASSETS / "labels.json").read_bytes() == (tmp_path / "labels.json").read_bytes()


def test_test_photographs_cover_every_concept_under_three_seeds() -> None:
    test = pl.read_parquet(ASSETS / "test.parquet", columns=["label", "seed"])
    assert len(test) >= 3000
    counts = test.group_by("label", "seed").len()
    assert len(counts) == 3 * len(concepts())
    assert counts["len"].unique().to_list() == [make.PER_SEED]


def test_no_photograph_is_in_both_sets_and_none_was_drawn_as_in_training() -> None:
    images = {name: set(pl.read_parquet(ASSETS / f"{name}.parquet")["image"]) for name in ("test", "validation")}
    assert not images["test"] & images["validation"]
    assert min(*make.TEST_SEEDS, make.VALIDATION_SEED) >= 2**62  # training draws its seeds below
    assert make.VALIDATION_SEED not in make.TEST_SEEDS


def test_a_stored_photograph_is_the_one_its_seed_gives() -> None:
    # JPEG encoders differ in the last bits between builds, so the pixels are compared, not the bytes.
    from rag_clip.models.decode import decode_image

    stored = pl.read_parquet(ASSETS / "validation.parquet")["image"][:3].to_list()
    drawn = make.photographs(make.VALIDATION_SEED, make.PER_VALIDATION)[:3]
    for one, other in zip(stored, drawn, strict=True):
        difference = np.asarray(decode_image(one)).astype(int) - np.asarray(decode_image(other)).astype(int)
        assert np.abs(difference).mean() < 2


def test_the_demo_model_knows_a_head_concept_by_name() -> None:
    encoder = load_encoder("demo", device="cpu")
    validation = pl.read_parquet(ASSETS / "validation.parquet").filter(pl.col("label").is_in(_most_frequent(30)))
    names = [concept.name for concept in concepts()]
    logits = (
        encoder.encode_images(validation["image"].to_list()).pooled
        @ encoder.encode_text([f"a photo of {name}" for name in names]).T
    )
    found = [names[row] for row in logits.argmax(1).tolist()]
    right = [found == truth for found, truth in zip(found, validation["label"], strict=True)]
    assert sum(right) / len(right) > 0.85


def _most_frequent(count: int) -> list[str]:
    return [c.name for c in sorted(concepts(), key=lambda concept: -concept.frequency)[:count]]

"""The micro world's encoder without words: what it is trained on, what it writes, and what the bundled one sees."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open

from rag_clip.demo import selfsupervised as training
from rag_clip.demo.concepts import BANDS, concepts
from rag_clip.demo.designs import FAMILIES, sample_design
from rag_clip.demo.photograph import photograph
from rag_clip.demo.train import nameless_designs, textures
from rag_clip.models.open_clip import load_encoder

ASSETS = Path(str(files("rag_clip.demo"))) / "assets"


def test_a_step_draws_few_families_and_depends_on_its_number_alone() -> None:
    members = [np.arange(40) + 40 * family for family in range(12)]
    rows, seed = training.draw_rows(members, 7)
    again, same = training.draw_rows(members, 7)
    assert (rows.tolist(), seed) == (again.tolist(), same)
    assert rows.tolist() != training.draw_rows(members, 8)[0].tolist()
    assert sorted(Counter(rows // 40).values()) == [training.PER_FAMILY] * training.FAMILIES_AT_ONCE
    assert len(set(rows.tolist())) == len(rows)


def test_no_concept_is_shown_and_no_photograph_has_the_seed_of_a_test() -> None:
    assert not {concept.design for concept in concepts()} & set(nameless_designs())
    members = [np.arange(40)] * 12
    assert max(training.draw_rows(members, step)[1] for step in range(training.STEPS)) < 2**62


def test_a_step_of_training_writes_a_model_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "concepts", lambda: concepts()[:36])  # to measure less
    draw = np.random.default_rng(0)
    designs = [sample_design(family, draw) for family in FAMILIES for _ in range(training.PER_FAMILY + 20)]
    training.train(tmp_path, steps=1, designs=designs)
    log = [json.loads(line) for line in (tmp_path / "train.log").read_text().splitlines()]
    assert [entry.get("step") for entry in log] == [None, 1]
    encoder = load_encoder(f"timm:{tmp_path}", device="cpu")
    pixels = photograph(textures(designs[:2]), seed=1)
    with torch.no_grad():
        expected = encoder.model(training.to_input(pixels))
    found = encoder.encode_pixels(pixels).pooled
    torch.testing.assert_close(found, torch.nn.functional.normalize(expected, dim=1), atol=1e-6, rtol=0)


def test_the_bundled_one_is_small_and_in_half_precision() -> None:
    path = ASSETS / "second" / "model.safetensors"
    assert path.stat().st_size < 2e6
    with safe_open(path, "pt") as checkpoint:
        tensors = [checkpoint.get_tensor(name) for name in list(checkpoint.keys())]
    assert {str(tensor.dtype) for tensor in tensors if tensor.is_floating_point()} == {"torch.float16"}
    assert json.loads((ASSETS / "second" / "config.json").read_text()) == training.CONFIG


def test_the_log_is_of_a_whole_training_on_less_than_a_million_parameters() -> None:
    lines = [json.loads(line) for line in (ASSETS / "second" / "train.log").read_text().splitlines()]
    assert lines[0]["parameters"] < 1e6
    assert lines[-1]["step"] == lines[0]["steps"] == training.STEPS
    assert lines[-1]["cpu_seconds"] < 900


def test_it_tells_concepts_of_every_band_apart_by_one_photograph_of_each() -> None:
    encoder = load_encoder("demo:second", device="cpu")
    validation = pl.read_parquet(ASSETS / "validation.parquet")
    rows = encoder.encode_images(validation["image"].to_list()).pooled
    names, band = [concept.name for concept in concepts()], np.array([concept.band for concept in concepts()])
    assert validation["label"].to_list() == names * 2
    known, asked = rows[: len(names)], rows[len(names) :]
    right = ((asked @ known.T).argmax(1) == torch.arange(len(names))).numpy()
    assert all(right[band == each].mean() > 0.6 for each in BANDS)

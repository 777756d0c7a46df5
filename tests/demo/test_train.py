"""Training the bundled CLIP: what it draws, its loss, its schedule, and what it writes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rag_clip.demo import train as training
from rag_clip.demo.concepts import concepts
from rag_clip.demo.designs import Design
from rag_clip.demo.train_log import note
from rag_clip.models.open_clip import load_encoder
from rag_clip.progress import ProgressEvent


@pytest.fixture(scope="module")
def nameless() -> tuple[Design, ...]:
    return training.nameless_designs()


@pytest.fixture(scope="module")
def pairs(nameless: tuple[Design, ...]) -> training.Pairs:
    """All named concepts, every tenth of the nameless designs, and 32 pairs a step."""
    return training.make_pairs(nameless=nameless[::10], batch=32)


def test_the_loss_of_two_pairs_is_the_hand_computed_one() -> None:
    image, text = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    # scale 1: rows of the logits are (1, 0.6) and (0, 0.8).
    rows = (math.log(1 + math.exp(-0.4)) + math.log(1 + math.exp(-0.8))) / 2
    columns = (math.log(1 + math.exp(-1.0)) + math.log(1 + math.exp(-0.2))) / 2
    assert float(training.contrastive_loss(image, text, torch.tensor(1.0))) == pytest.approx((rows + columns) / 2)


def test_a_batch_depends_on_its_step_alone(pairs: training.Pairs) -> None:
    first, again, other = (training.draw_batch(pairs, step) for step in (7, 7, 8))
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]
    assert first[1] != other[1]


def test_training_never_shows_names_or_describes_an_unseen_concept(
    pairs: training.Pairs, nameless: tuple[Design, ...]
) -> None:
    unseen = [concept for concept in concepts() if concept.band == "unseen"]
    rows = np.flatnonzero(pairs.shares)
    assert {concepts()[row].band for row in rows} == {"head", "tail"}
    assert not {concept.design for concept in unseen} & set(nameless)
    # A name may also be the synonym of a concept that is shown, or an ordinary word.
    spoken = {name for row in rows for name in (concepts()[row].name, *concepts()[row].synonyms)}
    names = {concept.name.lower() for concept in unseen} - {name.lower() for name in spoken}
    captions = {text.lower() for step in range(160) for text in training.draw_pairs(pairs, step)[1]}
    words = " ".join(captions)
    assert [name for name in names if len(name) > 6 and name in words] == []


class StoppedError(Exception):
    """What ends a training of these tests."""


def stop(_event: ProgressEvent) -> None:
    raise StoppedError


def test_two_steps_write_a_model_that_loads_and_a_stopped_training_goes_on_to_the_same(
    nameless: tuple[Design, ...], tmp_path: Path
) -> None:
    pairs = training.make_pairs(concepts()[::13], nameless[:60], batch=16)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    settings: dict[str, Any] = {"steps": 2, "every": 1, "device": torch.device("cpu"), "pairs": pairs}
    training.train(whole, **settings)
    with pytest.raises(StoppedError):
        training.train(stopped, **settings, report=stop)
    assert [entry.get("step") for entry in read_log(stopped)] == [None, 1]
    training.train(stopped, **settings)
    state = load_file(whole / "open_clip_model.safetensors")
    again = load_file(stopped / "open_clip_model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
    assert [{**entry, "seconds": 0} for entry in read_log(whole)] == [
        {**entry, "seconds": 0} for entry in read_log(stopped)
    ]
    assert sorted(path.name for path in stopped.iterdir()) == [
        "bpe.txt.gz",
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "train.log",
    ]
    encoder = load_encoder(f"local-dir:{whole}")
    assert [entry.get("step") for entry in read_log(whole)] == [None, 1, 2]
    assert encoder.encode_text(["a red die", ""]).shape == (2, 128)
    assert encoder.scale == pytest.approx(read_log(whole)[2]["scale"], rel=1e-3)


def read_log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train.log").read_text().splitlines()]


def test_a_line_of_the_log_takes_the_place_of_those_of_later_steps(tmp_path: Path) -> None:
    for facts in ({"step": 7}, {"steps": 9}, {"step": 3}, {"step": 6}, {"step": 3, "loss": 1.5}):
        note(tmp_path, facts)
    assert (tmp_path / "train.log").read_text() == '{"steps": 9}\n{"step": 3, "loss": 1.5}\n'

"""Training the bundled CLIP: what it draws, its loss, its schedule, and what it writes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rag_clip.demo import train as training
from rag_clip.demo.concepts import concepts
from rag_clip.models.open_clip import load_encoder


@pytest.fixture(scope="module")
def pairs() -> training.Pairs:
    return training.make_pairs()


def test_the_loss_of_two_pairs_is_the_hand_computed_one() -> None:
    image, text = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    # scale 1: rows of the logits are (1, 0.6) and (0, 0.8).
    rows = (math.log(1 + math.exp(-0.4)) + math.log(1 + math.exp(-0.8))) / 2
    columns = (math.log(1 + math.exp(-1.0)) + math.log(1 + math.exp(-0.2))) / 2
    assert float(training.contrastive_loss(image, text, torch.tensor(1.0))) == pytest.approx((rows + columns) / 2)


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    rates = [training.rate_at(step, 900) for step in (0, training.WARM_UP, 480, 900)]
    assert rates == pytest.approx([training.PEAK_RATE / training.WARM_UP, training.PEAK_RATE, 1e-3, 0.0], abs=1e-9)


def test_a_batch_depends_on_its_step_alone(pairs: training.Pairs) -> None:
    first, again, other = (training.draw_batch(pairs, step) for step in (7, 7, 8))
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]
    assert first[1] != other[1]


def test_training_never_shows_names_or_describes_an_unseen_concept(pairs: training.Pairs) -> None:
    unseen = [concept for concept in concepts() if concept.band == "unseen"]
    rows = np.flatnonzero(pairs.shares)
    assert {concepts()[row].band for row in rows} == {"head", "tail"}
    assert not {concept.design for concept in unseen} & set(pairs.anonymous)
    # A name may also be the synonym of a concept that is shown, or an ordinary word.
    spoken = {name for row in rows for name in (concepts()[row].name, *concepts()[row].synonyms)}
    names = {concept.name.lower() for concept in unseen} - {name.lower() for name in spoken}
    captions = {text.lower() for step in range(20) for text in training.draw_pairs(pairs, step)[1]}
    words = " ".join(captions)
    assert [name for name in names if len(name) > 6 and name in words] == []


def test_two_steps_write_a_model_that_loads(tmp_path: Path) -> None:
    training.train(tmp_path, steps=2, device=torch.device("cpu"))
    state = load_file(tmp_path / "open_clip_model.safetensors")
    log = [json.loads(line) for line in (tmp_path / "train.log").read_text().splitlines()]
    encoder = load_encoder(f"local-dir:{tmp_path}")
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    assert [entry.get("step") for entry in log] == [None, 2]
    assert encoder.encode_text(["a red die", ""]).shape == (2, 128)
    assert encoder.scale == pytest.approx(log[1]["scale"], rel=1e-3)

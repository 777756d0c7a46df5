"""Heads from what a person has at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

import rag_clip
from inputs.pictures import picture, write_images

NAMES = ["red", "green", "blue"]


@pytest.fixture
def support(tmp_path: Path) -> Path:
    images = write_images(tmp_path / "images.parquet", [picture(name) for name in NAMES], label=NAMES)
    output = tmp_path / "support.parquet"
    settings = rag_clip.ShotSettings(views=0)
    rag_clip.support_from_shots(images, NAMES, output=output, encoder="demo", k=1, settings=settings)
    return output


def test_a_head_needs_names_and_a_file_alone(support: Path) -> None:
    head = rag_clip.prepare_head("ridge", support, labels=NAMES)
    assert (head.facts["name"], head.facts["support"]["images"], dict(head.others)) == ("ridge", 3, {})


def test_one_name_of_a_further_encoder_is_refused_with_what_to_give(support: Path) -> None:
    message = "others is of type str; give a list of names of models, or a mapping from names to encoders"
    with pytest.raises(TypeError, match=message):
        rag_clip.prepare_head("como", support, labels=NAMES, others="timm:resnet18")


def test_prompts_are_learned_from_files_with_the_encoder_that_the_support_records(support: Path) -> None:
    prompts, output = support.with_name("prompts.json"), support.with_name("learned.safetensors")
    rag_clip.write_prompts(rag_clip.enhance(NAMES, encoder="demo", recipe="templates"), prompts)
    options = {"context": {"length": 1}, "schedule": {"epochs": 1, "batch_size": 3}}
    learned = rag_clip.learn_prompts(prompts, support, output=output, options=options)
    assert (learned.labels.names, learned.context.shape[-2], output.is_file()) == (tuple(NAMES), 1, True)

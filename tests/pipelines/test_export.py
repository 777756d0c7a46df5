"""Exports: the weights that classify as we do, from prompts, learned prompts and heads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import rag_clip
from inputs.command_line import run
from inputs.photographs import photographs
from inputs.pictures import picture, write_images
from rag_clip.models.open_clip import load_encoder

NAMES = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prompts, a support file of two images a class, and prompts learned from it."""
    folder = tmp_path_factory.mktemp("export")
    prompts = rag_clip.enhance(NAMES, encoder="demo", recipe="templates")
    rag_clip.write_prompts(prompts, folder / "prompts.json")
    pictures = [picture(name) for name in NAMES * 2]
    images = write_images(folder / "images.parquet", pictures, label=NAMES * 2)
    settings = rag_clip.ShotSettings(views=0)
    rag_clip.support_from_shots(
        images, NAMES, output=folder / "support.parquet", encoder="demo", k=2, settings=settings
    )
    options = {"context": {"length": 1}, "schedule": {"epochs": 1, "batch_size": 3}}
    learned = folder / "learned.safetensors"
    rag_clip.learn_prompts(prompts, folder / "support.parquet", output=learned, options=options)
    return folder


def scores_by(path: Path) -> torch.Tensor:
    """Classify photographs by an exported file, as a program that knows only the encoder does."""
    with np.load(path) as file:
        weights, bias, scale = (torch.from_numpy(np.asarray(file[name])) for name in ("weights", "bias", "scale"))
    features = load_encoder("demo", device="cpu").encode_images(photographs(4)).pooled
    return (scale * features @ weights.T + bias).softmax(1)


def scores_of(prompts: Path, head: rag_clip.classifiers.prepared.PreparedHead | None = None) -> torch.Tensor:
    """Classify the photographs by ourselves."""
    rows = rag_clip.classify(
        photographs(4), prompts=prompts, encoder="demo", head=head, scoring=rag_clip.Scoring(top_k=3)
    ).to_polars()
    found = [
        [dict(zip(labels, scores, strict=True))[name] for name in NAMES]
        for labels, scores in zip(rows["top_k_labels"], rows["top_k_scores"], strict=True)
    ]
    return torch.tensor(found)


@pytest.mark.parametrize("prompts", ["prompts.json", "learned.safetensors"])
def test_exported_weights_score_images_as_classify_does(prompts: str, folder: Path, tmp_path: Path) -> None:
    summary = rag_clip.export_classifier(folder / prompts, output=tmp_path / "classifier.npz")
    assert (summary.classes, summary.width, summary.head, summary.check) == (3, 128, "", None)
    torch.testing.assert_close(scores_by(summary.output), scores_of(folder / prompts), atol=1e-4, rtol=1e-3)


def test_a_linear_head_is_in_the_weights_and_another_is_refused_before_it_is_fitted(
    folder: Path, tmp_path: Path
) -> None:
    head = rag_clip.prepare_head("gaussian", folder / "support.parquet", labels=NAMES).without_floor()
    summary = rag_clip.export_classifier(folder / "prompts.json", output=tmp_path / "classifier.npz", head=head)
    assert str(summary).endswith("3 classes, 128 wide, scale 28.44, with the head gaussian")
    ours = scores_of(folder / "prompts.json", head)
    torch.testing.assert_close(scores_by(summary.output), ours, atol=1e-4, rtol=1e-3)
    code, _, errors = run(
        *["export", "prompts.json", "--support", "support.parquet", "--head", "ridge", "-o", "new.npz"], folder=folder
    )
    assert (code, "the logits of the head ridge are not linear" in errors) == (1, True)
    assert not (folder / "new.npz").exists()


def test_the_command_line_says_which_head_is_taken(folder: Path) -> None:
    code, said, errors = run(
        *["export", "prompts.json", "--support", "support.parquet", "-o", "c.safetensors"], folder=folder
    )
    assert (code, errors.count("rag-clip:")) == (0, 0)
    assert said.startswith(
        "head: priming, the default of an export, for its logits are linear\nc.safetensors: 3 classes"
    )


def test_a_folder_for_clip_benchmark_needs_no_model_and_bears_the_name_of_the_data_set(folder: Path) -> None:
    code, said, errors = run(*["export", "prompts.json", "--format", "clip-benchmark", "-o", "birds"], folder=folder)
    assert (code, said.strip(), errors) == (0, "birds: 3 classes", "")
    assert json.loads((folder / "birds/classnames.json").read_text()) == {"birds": NAMES}
    again = run(*["export", "prompts.json", "--format", "clip-benchmark", "-o", "birds"], folder=folder)
    assert again.code == 0
    support = run(
        *["export", "prompts.json", "--support", "support.parquet", "--format", "clip-benchmark", "-o", "birds"],
        folder=folder,
    )
    assert (support.code, "CLIP_benchmark's files hold texts, and no support images" in support.errors) == (1, True)


@pytest.mark.parametrize(
    ("output", "format", "said"),
    [
        ("new.txt", None, r"has the suffix '.txt'; classifiers are .safetensors, .npz or .onnx files"),
        ("new.npz", "onnx", "has the suffix '.npz'"),
        ("new.npz", "pickle", "unknown format 'pickle'"),
    ],
)
def test_an_output_of_no_known_format_is_refused(output, format, said: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        rag_clip.export_classifier(folder / "prompts.json", output=tmp_path / output, format=format)

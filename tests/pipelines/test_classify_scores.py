"""Scores by sigmoid: what classify writes of an encoder that was trained with a bias, and whom it refuses."""

from __future__ import annotations

import json
import shutil
from contextlib import redirect_stderr
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from inputs.pictures import colour_prompts, colours, picture, write_images
from rag_clip.classifiers.match import Scores, Scoring
from rag_clip.classifiers.prepared import PreparedHead
from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.cli import app
from rag_clip.files.prompts import read_prompts
from rag_clip.models.open_clip import load_encoder
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.running import Running
from rag_clip.testing import ToyEncoder

SIGLIP = ToyEncoder(bias=-20.0, trained_bias=True)


@pytest.fixture
def siglip(tmp_path: Path) -> str:
    """The bundled model with a logit bias of -10, as if it had been trained so."""
    bundled, folder = Path(str(files("rag_clip.demo"))) / "assets" / "model", tmp_path / "siglip"
    shutil.copytree(bundled, folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["init_logit_bias"] = -10.0
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    weights = folder / "open_clip_model.safetensors"
    save_file(load_file(weights) | {"logit_bias": torch.tensor(-10.0)}, weights)
    return f"local-dir:{folder}"


def run(images: Path, output: Path, **settings: Any) -> list[dict]:
    defaults: dict[str, Any] = {"prompts": colour_prompts(), "encoder": SIGLIP, "running": Running(0)}
    classify([images], output=output, **defaults | settings)
    return pq.read_table(output).to_pylist()


def test_sigmoid_scores_are_those_of_the_logits_and_change_no_label(tmp_path: Path):
    images = write_images(tmp_path / "in.parquet", [picture(name) for name in colours(5)])
    by_sigmoid = run(images, tmp_path / "sigmoid.parquet", scoring=Scoring(top_k=3, scores="sigmoid"))
    by_softmax = run(images, tmp_path / "softmax.parquet", scoring=Scoring(top_k=3))
    features = SIGLIP.encode_images([picture(name) for name in colours(5)]).pooled
    logits = 20 * features @ SIGLIP.encode_text(["red", "green", "blue"]).T - 20
    for row, (one, other) in enumerate(zip(by_sigmoid, by_softmax, strict=True)):
        assert one["top_k_labels"] == other["top_k_labels"]
        assert one["top_k_scores"] == pytest.approx(logits[row].sort(descending=True).values.sigmoid().tolist())
        assert one["score"] == one["top_k_scores"][0]
    assert sum(by_softmax[0]["top_k_scores"]) == pytest.approx(1)
    assert sum(by_sigmoid[0]["top_k_scores"]) < 1


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_predictions_record_their_scores(tmp_path: Path, scores: Scores):
    run(
        write_images(tmp_path / "in.parquet", [picture("red")]),
        tmp_path / "out.parquet",
        scoring=Scoring(scores=scores),
    )
    assert json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"rag_clip"])["scores"] == scores


def test_what_has_no_level_is_refused_before_any_work(tmp_path: Path):
    images = write_images(tmp_path / "in.parquet", [picture("red")])
    filled = ToyEncoder(bias=0.0)
    head = PreparedHead(lambda zero_shot: zero_shot, {})
    cases: dict[str, dict[str, Any]] = {
        "sigmoid scores need an encoder that was trained with a logit bias": {"encoder": filled},
        "heads and learned prompts are trained with softmax": {"head": head},
        "scores are 'logits'; choose one of softmax, sigmoid": {"scoring": Scoring(scores="logits")},  # type: ignore[arg-type]
    }
    for reason, settings in cases.items():
        with pytest.raises(ValueError, match=reason):
            run(images, tmp_path / "out.parquet", **{"scoring": Scoring(scores="sigmoid")} | settings)
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_the_command_line_writes_sigmoid_scores_and_refuses_the_demo(tmp_path: Path, siglip: str):
    pictures = [picture("red"), picture("blue")]
    images = write_images(tmp_path / "in.parquet", pictures)
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    for model, name in ((siglip, "siglip"), ("demo", "demo")):
        prompts = [tmp_path / "labels.txt", "--recipe", "templates", "--model", model, "-o", tmp_path / f"{name}.json"]
        assert command("enhance", *prompts) == (0, "")
    options = [images, "--scores", "sigmoid", "--top-k", 3, "--workers", 0]
    refused = command(
        "classify", *options, "--prompts", tmp_path / "demo.json", "--model", "demo", "-o", tmp_path / "demo.parquet"
    )
    assert refused == (
        1,
        "rag-clip: sigmoid scores need an encoder that was trained with a logit bias, as SigLIP is, and this one has "
        "none; use softmax scores, or another model\n",
    )
    output = tmp_path / "siglip.parquet"
    assert command("classify", *options, "--prompts", tmp_path / "siglip.json", "--model", siglip, "-o", output)[0] == 0
    encoder = load_encoder(siglip, device="cpu")
    logits = zero_shot(read_prompts(tmp_path / "siglip.json"), encoder)(encoder.encode_images(pictures))
    scores = torch.tensor(pq.read_table(output)["top_k_scores"].to_pylist())
    torch.testing.assert_close(scores, logits.sort(1, descending=True).values.sigmoid(), rtol=0, atol=1e-4)


def command(*arguments: object) -> tuple[int, str]:
    """Return the exit code of a command, and what it says of failure."""
    with redirect_stderr(StringIO()) as errors:
        code = app([*map(str, arguments)], result_action="return_value")
    return code, "".join(line for line in errors.getvalue().splitlines(True) if line.startswith("rag-clip:"))

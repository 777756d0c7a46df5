"""Exported class weights, as other programs read them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from rag_clip.data import LabelSet
from rag_clip.files.linear_classifiers import LinearClassifier, write_linear_classifier
from rag_clip.files.outputs import made_by

WEIGHTS, BIAS = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([0.0, -1.5])
GIVEN = LinearClassifier(LabelSet(("tabby cat", "Kätzchen")), WEIGHTS, BIAS, 100.0, {"encoder": {"model": "x"}})


def test_safetensors_hold_weights_and_bias_and_in_the_metadata_names_and_scale(tmp_path: Path) -> None:
    write_linear_classifier(GIVEN, path := tmp_path / "new" / "classifier.safetensors")
    with safe_open(path, framework="np") as file:
        facts = json.loads(file.metadata()["rag_clip.classifier"])
        read = {name: file.get_tensor(name).tolist() for name in file.keys()}  # noqa: SIM118
    assert read == {"weights": WEIGHTS.tolist(), "bias": BIAS.tolist()}
    assert (facts["names"], facts["scale"]) == (["tabby cat", "Kätzchen"], 100.0)
    assert (facts["probabilities"], facts["provenance"]) == ("softmax", {"encoder": {"model": "x"}})


def test_npz_is_read_without_pickle(tmp_path: Path) -> None:
    write_linear_classifier(GIVEN, path := tmp_path / "classifier.npz")
    with np.load(path, allow_pickle=False) as file:
        assert (file["weights"].tolist(), file["bias"].tolist()) == (WEIGHTS.tolist(), BIAS.tolist())
        assert (file["names"].tolist(), float(file["scale"])) == (["tabby cat", "Kätzchen"], 100.0)
        assert json.loads(str(file["rag_clip_classifier"])) == GIVEN.facts


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_our_files_are_known_from_those_of_others(suffix: str, tmp_path: Path) -> None:
    write_linear_classifier(GIVEN, ours := tmp_path / f"ours.{suffix}")
    np.savez(foreign := tmp_path / "theirs.npz", weights=np.zeros(2))
    (broken := tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and nothing else")
    assert [made_by(path) for path in (ours, foreign, broken)] == ["export", "", ""]

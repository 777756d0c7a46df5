"""ONNX files of image tower and classifier, run by onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from inputs.photographs import photographs
from rag_clip.files.outputs import made_by
from rag_clip.models.onnx_export import OnnxError, check_onnx, write_onnx
from rag_clip.models.open_clip import load_encoder
from rag_clip.models.towers import two_towers

WEIGHTS = 20 * torch.nn.functional.normalize(torch.randn(5, 128, generator=torch.Generator().manual_seed(0)), dim=1)
BIAS = torch.arange(5.0)


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("demo", device="cpu", precision="fp32")


def test_the_file_computes_from_pixels_what_the_encoder_does_and_says_what_it_is(encoder, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    check = write_onnx(encoder, WEIGHTS, BIAS, path := tmp_path / "classifier.onnx", facts={"names": list("abcde")})
    assert (check.difference <= check.tolerance, check.images) == (True, 8)
    np.testing.assert_allclose(check.tolerance, 20 * 1e-4, rtol=1e-5)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    pixels = encoder.to_pixels(photographs(3))
    (found,) = session.run(["logits"], {"pixels": pixels.numpy()})
    expected = encoder.encode_pixels(pixels).pooled @ WEIGHTS.T + BIAS
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-3)
    assert json.loads(session.get_modelmeta().custom_metadata_map["rag_clip.classifier"]) == {"names": list("abcde")}
    assert made_by(path) == "export"
    with pytest.raises(OnnxError, match=r"differs from the encoder by up to .* so it is not written"):
        check_onnx(path, encoder, WEIGHTS, BIAS + 0.01)


def test_another_precision_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    encoder = load_encoder("demo", device="cpu", precision="bf16")
    with pytest.raises(OnnxError, match="the encoder runs in bf16, and the ONNX file is made in fp32"):
        write_onnx(two_towers(encoder), WEIGHTS, BIAS, tmp_path / "classifier.onnx", facts={})
    assert list(tmp_path.iterdir()) == []

"""An image classifier as one ONNX file: the image tower of an encoder and a linear classifier on its features.

    logits [n, c] = scale * unit(tower((pixels / 255 - mean) / std)) @ weights.T + bias

The input `pixels` is uint8 [n, 3, height, width], RGB, resized and cropped as the file's metadata say; any number of
images. The file is checked against the encoder when it is made. Only this file imports onnx and onnxruntime.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rag_clip.errors import RagClipError, disk_errors
from rag_clip.files.atomic import replacing
from rag_clip.files.outputs import PRODUCER
from rag_clip.models.towers import TwoTowers

METADATA = "rag_clip.classifier"
MOST_BYTES = 2_000_000_000  # a protobuf message, and so an ONNX file, holds less than 2 GiB
TOLERANCE = 1e-4  # of the scale times the longest class weight, which no logit exceeds
OPSET = 18


class OnnxError(RagClipError):
    """The ONNX file cannot be made, or does not compute what the encoder computes."""


@dataclass(frozen=True, slots=True)
class OnnxCheck:
    """The largest difference of a logit between the file and the encoder, and the one that is still accepted."""

    difference: float
    tolerance: float
    images: int


class _Classifier(nn.Module):
    """The graph that is written."""

    mean: torch.Tensor
    std: torch.Tensor
    weights: torch.Tensor
    bias: torch.Tensor

    def __init__(self, encoder: TwoTowers, weights: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.tower = encoder.model.visual
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (encoder.mean, encoder.std))
        for name, value in {"mean": mean, "std": std, "weights": weights, "bias": bias}.items():
            self.register_buffer(name, value)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        values = (pixels.float() / 255 - self.mean) / self.std
        features = nn.functional.normalize(self.tower(values), dim=-1)  # [n, d]
        logits: torch.Tensor = features @ self.weights.T + self.bias  # [n, c]
        return logits


def write_onnx(
    encoder: TwoTowers,
    weights: torch.Tensor,
    bias: torch.Tensor,
    path: Path,
    *,
    facts: Mapping[str, Any],
) -> OnnxCheck:
    """Write the classifier unit(f) @ weights.T + bias, its scale in the weights [c, d], and compare it with ours.

    encoder: an open_clip model in fp32; it is computed on the CPU.
    facts: plain values for the metadata under `rag_clip.classifier`.

    The file appears only if it computes what the encoder does. Raises OnnxError without the extra `onnx`, for another
    precision, a model of 2 GB or more, and a larger difference than the tolerance; OSError if the disk is full.
    """
    onnx, _ = _packages()
    if encoder.fingerprint.precision != "fp32":
        raise OnnxError(
            f"the encoder runs in {encoder.fingerprint.precision}, and the ONNX file is made in fp32; load the model "
            "with the precision fp32"
        )
    on_cpu = replace(encoder, model=copy.deepcopy(encoder.model).cpu().eval(), device=torch.device("cpu"))
    classifier = _Classifier(on_cpu, weights, bias).eval()
    size = sum(each.numel() * each.element_size() for each in classifier.state_dict().values())
    if size >= MOST_BYTES:
        raise OnnxError(
            f"the image tower has {size / 1e9:.1f} GB, and an ONNX file holds less than 2; take a smaller model, or "
            "export the class weights (.safetensors)"
        )
    with disk_errors(path), replacing(path) as partial:
        with _exact_attention(), torch.no_grad():
            model = torch.onnx.export(
                classifier,
                (_examples(on_cpu)[:2],),
                input_names=["pixels"],
                output_names=["logits"],
                dynamic_shapes={"pixels": {0: torch.export.Dim("n", max=1 << 20)}},
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        assert model is not None
        proto = model.model_proto
        proto.producer_name = PRODUCER
        onnx.helper.set_model_props(proto, {METADATA: json.dumps(dict(facts), ensure_ascii=False)})
        partial.write_bytes(proto.SerializeToString())
        return check_onnx(partial, on_cpu, weights, bias)


@torch.no_grad()
def check_onnx(path: Path, encoder: TwoTowers, weights: torch.Tensor, bias: torch.Tensor) -> OnnxCheck:
    """Run an ONNX file beside an encoder on the CPU and unit(f) @ weights.T + bias; weights [c, d], bias [c].

    Raises OnnxError for a logit that differs by more than `TOLERANCE` of the longest row of the weights.
    """
    images = _examples(encoder)
    session = _packages()[1].InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"pixels": images.numpy()})[0])
    ours = encoder.encode_pixels(images).pooled @ weights.T + bias
    tolerance = TOLERANCE * float(torch.linalg.vector_norm(weights, dim=1).max())
    check = OnnxCheck(float((found - ours).abs().max()), tolerance, len(images))
    if not check.difference <= check.tolerance:
        raise OnnxError(
            f"the ONNX file differs from the encoder by up to {check.difference:.2g} in a logit, more than the "
            f"{check.tolerance:.2g} that rounding explains, so it is not written; export the class weights "
            "(.safetensors), and report the model"
        )
    return check


def _packages() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # what torch.onnx writes with
    except ImportError as error:
        raise OnnxError("an ONNX file needs three more packages; pip install 'rag-clip[onnx]'") from error
    return onnx, onnxruntime


def _examples(encoder: TwoTowers) -> torch.Tensor:
    """Return uint8 pixels [8, 3, height, width]: noise, smooth noise, gradients, black and white."""
    size = (encoder.preprocess.height, encoder.preprocess.width)
    drawn = torch.Generator().manual_seed(0)
    noise = torch.rand(3, 3, *size, generator=drawn)
    smooth = nn.functional.interpolate(torch.rand(2, 3, 4, 4, generator=drawn), size=size, mode="bilinear")
    ramp = torch.linspace(0, 1, size[1]).expand(1, 3, *size)
    flat = torch.stack([torch.zeros(3, *size), torch.ones(3, *size)])
    return (255 * torch.cat([noise, smooth, ramp, flat])).round().to(torch.uint8)


@contextmanager
def _exact_attention() -> Iterator[None]:
    """Trace attention as its single steps: ONNX does not know PyTorch's fused operator."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)

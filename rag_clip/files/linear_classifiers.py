"""Linear classifiers as files for other programs: class weights with their names, scale and bias.

    logits = scale * f @ weights.T + bias        f [n, d] unit image features of the encoder that the file names

`.safetensors` holds the tensors `weights` [c, d] and `bias` [c], and as JSON under the metadata's key
`rag_clip.classifier` the names, the scale and the rest. `.npz` holds the arrays `weights`, `bias`, `scale` and `names`,
and the same JSON as the text `rag_clip_classifier`; `numpy.load` reads it without pickle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rag_clip.data import LabelSet
from rag_clip.errors import disk_errors
from rag_clip.files.atomic import replacing
from rag_clip.files.outputs import IN_NPZ
from rag_clip.files.tensors import write_tensors

METADATA = "rag_clip.classifier"


@dataclass(frozen=True, slots=True, eq=False)
class LinearClassifier:
    """Class `weights` [c, d] and `bias` [c], float32 on the CPU, and the `scale` of the cosines.

    provenance: the encoder, the prompts and the head that the weights were made with.
    sigmoid: whether sigmoid(logits) are probabilities, as of encoders like SigLIP; softmax(logits) always are.
    """

    labels: LabelSet
    weights: torch.Tensor
    bias: torch.Tensor
    scale: float
    provenance: Mapping[str, Any] = field(default_factory=dict)
    sigmoid: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """All but the tensors, as plain values."""
        return {
            "names": list(self.labels.names),
            "scale": self.scale,
            "probabilities": "sigmoid" if self.sigmoid else "softmax",
            "provenance": dict(self.provenance),
        }


def write_linear_classifier(classifier: LinearClassifier, path: Path) -> None:
    """Write a `.safetensors` or `.npz` file, replacing it only once it is complete.

    Makes the folder if it is missing. Raises OSError if the disk is full; an old file then stays as it was.
    """
    if path.suffix.lower() == ".npz":
        _write_npz(classifier, path)
    else:
        tensors = {"weights": classifier.weights, "bias": classifier.bias}
        write_tensors(tensors, path, key=METADATA, facts=classifier.facts)


def _write_npz(classifier: LinearClassifier, path: Path) -> None:
    arrays: dict[str, Any] = {
        "weights": classifier.weights.numpy(),
        "bias": classifier.bias.numpy(),
        "scale": np.float32(classifier.scale),
        "names": np.array(classifier.labels.names),
        IN_NPZ: np.array(json.dumps(classifier.facts, ensure_ascii=False)),
    }
    with disk_errors(path), replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)

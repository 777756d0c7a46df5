"""What a second encoder is worth in the micro world.

    python tests/benchmarks/second_encoder.py [--second SPEC] [--shots K ...]

Photographs of the bundled validation set (two of each of 360 concepts). Support: K photographs of each concept, with
render seeds of training. Without validation labels: settings are chosen by leaving out shots, or are the defaults.
Prints accuracy by band: each encoder alone (nearest mean, nearest image, linear), text alone, Tip-Adapter, CoMo.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np
import polars as pl
import torch
from PIL import Image
from torch.nn.functional import cross_entropy, normalize, one_hot

from rag_clip.classifiers.como import CoMoFSettings, CoMoSettings
from rag_clip.classifiers.tip_adapter import TipAdapterFSettings, TipAdapterSettings
from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import Features, Support
from rag_clip.demo.concepts import concepts
from rag_clip.demo.make import encode_jpeg, label_set
from rag_clip.demo.photograph import photograph
from rag_clip.demo.train import textures
from rag_clip.models.open_clip import load_encoder
from rag_clip.prompts.templates import template_prompts
from rag_clip.protocols import Encoder
from rag_clip.training.loop import Rows, Schedule, train

SEED = 77
BANDS = np.array([concept.band for concept in concepts()])


def show(name: str, found: torch.Tensor, truth: torch.Tensor) -> None:
    """Print the accuracy of all classes, and of each band."""
    right = (found == truth).numpy()
    bands = [f"{right[BANDS[truth.numpy()] == band].mean():.3f}" for band in ("head", "tail", "unseen")]
    print(f"{name:44} {right.mean():.3f}  {'  '.join(bands)}", flush=True)


def linear(support: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Train a linear classifier at a fixed scale of 20, and return the classes it finds."""
    weights = torch.zeros(len(BANDS), support.shape[1], requires_grad=True)
    schedule = Schedule(epochs=30, batch_size=256, rate=0.1, weight_decay=0.0)
    train(
        [weights],
        lambda rows: cross_entropy(20 * support[rows] @ weights.T, labels[rows]),
        Rows(len(labels)),
        schedule=schedule,
    )
    return (queries @ weights.detach().T).argmax(1)


def measure(encoders: Mapping[str, Encoder], shots: int) -> None:
    """Print every accuracy at so many shots; `encoders` are "demo" and "second"."""
    drawn = textures([concept.design for concept in concepts()]).repeat(shots, 1, 1, 1)
    shown = photograph(drawn, seed=SEED).permute(0, 2, 3, 1).numpy()
    images = [Image.open(io.BytesIO(encode_jpeg(pixels))) for pixels in shown]
    labels = torch.arange(len(BANDS)).repeat(shots)
    validation = pl.read_parquet(str(files("rag_clip.demo") / "assets" / "validation.parquet"))
    truth = torch.arange(len(BANDS)).repeat(2)
    keys = {name: encoder.encode_images(images).pooled for name, encoder in encoders.items()}
    queries = {name: encoder.encode_images(validation["image"].to_list()).pooled for name, encoder in encoders.items()}
    print(f"{shots} shots {'':36} all    head   tail   unseen")
    for name in encoders:
        means = normalize(keys[name].view(shots, len(BANDS), -1).mean(0), dim=1)
        show(f"{name}: nearest mean", (queries[name] @ means.T).argmax(1), truth)
        show(f"{name}: nearest image", labels[(queries[name] @ keys[name].T).argmax(1)], truth)
        show(f"{name}: linear", linear(keys[name], labels, queries[name]), truth)
    text = zero_shot(template_prompts(label_set()), encoders["demo"])
    count = len(labels)
    support = Support(
        label_set(), keys["demo"], one_hot(labels).float(), torch.ones(count), ("shot",) * count,
        tuple(map(str, range(count))), {}, {"second": keys["second"]},
    )  # fmt: skip
    asked = Features(queries["demo"], others={"second": queries["second"]})
    show("text", text(asked).argmax(1), truth)
    heads: dict[str, Any] = {
        "tip_adapter": TipAdapterSettings().build(text, support),
        "tip_adapter_f": TipAdapterFSettings().build(text, support),
        "como": CoMoSettings().build(text, support),
        "como, sharpness 10": CoMoSettings(sharpness=10.0).build(text, support),
        "como, sharpness c - 1": CoMoSettings(sharpness=len(BANDS) - 1.0).build(text, support),
        "como_f": CoMoFSettings().build(text, support),
    }
    for name, head in heads.items():
        choice = head.choice
        show(f"{name} (a {choice.alpha:.3g}, b {choice.beta:.3g})", head(asked).argmax(1), truth)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--second", default="demo:second")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 4])
    given = parser.parse_args()
    specs = {"demo": "demo", "second": given.second}
    loaded = {name: load_encoder(spec, device="cpu") for name, spec in specs.items()}
    for k in given.shots:
        measure(loaded, k)

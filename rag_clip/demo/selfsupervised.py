"""Train the demo's image-only encoder: `python -m rag_clip.demo.selfsupervised [--out DIR] [--steps N]`.

SimCLR (Chen et al., 2020, arXiv 2002.05709) on designs that belong to no concept, without names and captions: features
of two photographs of a design, each with its own pose, light, background and noise, must be closer to each other than
to those of other designs. A batch has few families; otherwise the family alone would distinguish most designs. The
projection head is discarded after training. The folder is in timm's format: `load_encoder("timm:DIR")`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import normalize

from rag_clip.demo.concepts import BANDS, concepts
from rag_clip.demo.designs import FAMILIES, Design
from rag_clip.demo.make import PER_VALIDATION, VALIDATION_SEED
from rag_clip.demo.photograph import photograph
from rag_clip.demo.train import contrastive_loss, nameless_designs, textures
from rag_clip.demo.train_log import note, unfinished
from rag_clip.training import loop

CONFIG: dict[str, Any] = {
    "architecture": "resnet18",
    "num_classes": 0,
    "num_features": 192,
    "model_args": {"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 192], "stem_type": "deep", "stem_width": 16},
    "pretrained_cfg": {
        "input_size": [3, 64, 64],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "num_classes": 0,
        "first_conv": "conv1.0",
        "classifier": "fc",
    },
}
SEED, STEPS, FAMILIES_AT_ONCE, PER_FAMILY = 20261123, 600, 4, 32
PEAK_RATE, WARM_UP, SCALE, PROJECTION = 3e-3, 40, 10.0, 128
SHOTS = 4
LOGGED_EVERY = 100


def draw_rows(members: list[np.ndarray], step: int) -> tuple[np.ndarray, int]:
    """Return the rows of the designs of a step, from `FAMILIES_AT_ONCE` families, and the seed of their photographs."""
    draw = np.random.default_rng([SEED, step])
    families = draw.choice(len(members), size=FAMILIES_AT_ONCE, replace=False)
    rows = [draw.choice(members[family], size=PER_FAMILY, replace=False) for family in families]
    return np.concatenate(rows), int(draw.integers(2**62))


def to_input(photographs: torch.Tensor) -> torch.Tensor:
    """Normalise photographs [n, 3, 64, 64] as in the model's preprocessing."""
    return (photographs.float() / 255 - 0.5) / 0.25


@torch.no_grad()
def embed(model: nn.Module, shown: torch.Tensor, seed: int) -> torch.Tensor:
    """Return unit features [n, d] of photographs of textures [n, 4, t, t]."""
    model.eval()
    parts = [model(to_input(part)) for part in torch.split(photograph(shown, seed=seed), 256)]
    model.train()
    return normalize(torch.cat(parts), dim=1)


def accuracy_by_band(model: nn.Module, shown: torch.Tensor) -> dict[str, float]:
    """Return validation accuracy per band, by the nearest class mean of `SHOTS` other photographs per concept."""
    means = embed(model, shown.repeat(SHOTS, 1, 1, 1), SEED).view(SHOTS, len(shown), -1).mean(0)  # [c, d]
    queries = embed(model, shown.repeat(PER_VALIDATION, 1, 1, 1), VALIDATION_SEED)
    found = (queries @ normalize(means, dim=1).T).argmax(1)
    right = (found == torch.arange(len(shown)).repeat(PER_VALIDATION)).float()
    bands = np.array([concept.band for concept in concepts()] * PER_VALIDATION)
    return {band: round(float(right[torch.from_numpy(bands == band)].mean()), 4) for band in BANDS}


def train(out: Path, *, steps: int = STEPS, designs: Sequence[Design] | None = None) -> None:
    """Train on the CPU, and write config.json, model.safetensors (half precision) and train.log to `out`.

    `designs` default to those without a name in the training of the bundled CLIP, each once. A killed training resumes
    from its last line in the log.
    """
    designs = list(dict.fromkeys(nameless_designs() if designs is None else designs))
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    model = timm.create_model(CONFIG["architecture"], num_classes=0, **CONFIG["model_args"])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.02  # a batch has few families, and the statistics must cover all of them
    width = CONFIG["num_features"]
    projection = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, PROJECTION))
    _run(model, projection, designs, steps, out)
    (out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    state = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    save_file({key: value.contiguous() for key, value in state.items()}, out / "model.safetensors")
    unfinished(out, every=LOGGED_EVERY).path.unlink()


def _run(model: nn.Module, projection: nn.Module, designs: Sequence[Design], steps: int, out: Path) -> None:
    drawn, shown = textures(list(designs)), textures([concept.design for concept in concepts()])
    members = [np.flatnonzero([design.family == family for design in designs]) for family in FAMILIES]
    checkpoint = unfinished(out, every=LOGGED_EVERY)
    if not checkpoint.path.exists():
        parameters = sum(value.numel() for value in model.parameters())
        note(out, {"parameters": parameters, "designs": len(designs), "steps": steps, "torch": torch.__version__})
    start = time.process_time()

    def loss(step: int) -> torch.Tensor:
        rows, seed = draw_rows(members, step)
        views = photograph(drawn[rows].repeat(2, 1, 1, 1), seed=seed)
        first, second = normalize(projection(model(to_input(views))), dim=1).chunk(2)  # [b, PROJECTION] each
        return contrastive_loss(first, second, torch.tensor(SCALE))

    def after(step: loop.Step) -> None:
        if step.number % LOGGED_EVERY == 0 or step.number == steps:
            accuracy = accuracy_by_band(model, shown)
            seconds = round(time.process_time() - start, 1)
            note(out, {"step": step.number, "loss": round(step.loss, 4), **accuracy, "cpu_seconds": seconds})

    schedule = loop.Schedule(
        steps=steps, rate=PEAK_RATE, warm_up=WARM_UP, warm_up_rate=None, weight_decay=0.05, seed=SEED
    )
    learned = [*model.parameters(), *projection.parameters()]
    loop.train([*learned, *model.buffers()], loss, count, schedule=schedule, checkpoint=checkpoint, after=after)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "assets" / "second")
    parser.add_argument("--steps", type=int, default=STEPS)
    chosen = parser.parse_args()
    train(chosen.out, steps=chosen.steps)

"""The micro world's noise schedule and its deterministic sampler; diffusers' DDIMScheduler of one setting.

With signal share a_t (the cosine schedule): noisy = sqrt(a_t) clean + sqrt(1 - a_t) noise. A step of DDIM (Song et al.,
2021, arXiv 2010.02502) keeps the noise that the clean image found, clipped, implies, and goes to the share of the next
time: diffusers' `step(..., use_clipped_model_output=True)`.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import torch

from rag_clip.demo.unet import SIDE, Denoiser

TRAIN_TIMES = 1000
SCHEDULE: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": TRAIN_TIMES,
    "beta_schedule": "squaredcos_cap_v2",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "prediction_type": "sample",
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "timestep_spacing": "trailing",
}


@cache
def signal_shares() -> torch.Tensor:
    """Return the share of the signal in the variance at every time, float32 [TRAIN_TIMES], falling."""

    def share(place: float) -> float:
        return math.cos((place + 0.008) / 1.008 * math.pi / 2) ** 2

    kept = [max(share((t + 1) / TRAIN_TIMES) / share(t / TRAIN_TIMES), 0.001) for t in range(TRAIN_TIMES)]
    return torch.tensor(kept, dtype=torch.float32).cumprod(0)


def add_noise(images: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """Return images [n, ...] with their noise at times [n]."""
    share = signal_shares()[times].view(-1, 1, 1, 1)
    return share.sqrt() * images + (1 - share).sqrt() * noise


@torch.no_grad()
def sample(denoiser: Denoiser, texts: torch.Tensor, *, seeds: list[int], steps: int, guidance: float) -> torch.Tensor:
    """Paint images [n, 3, SIDE, SIDE] in [-1, 1] for text embeddings [n, d], each from the noise of its own seed.

    `guidance` moves from what is found without the text to what is found with it, and beyond above 1.
    Raises ValueError for steps outside 1..TRAIN_TIMES.
    """
    if not 1 <= steps <= TRAIN_TIMES:
        raise ValueError(f"steps is {steps}; give 1 to {TRAIN_TIMES}")
    noise = [torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    values = torch.stack(noise)
    without = torch.zeros_like(texts)
    shares = signal_shares()
    for time in (round(TRAIN_TIMES - k * TRAIN_TIMES / steps) - 1 for k in range(steps)):
        times = torch.full((len(values),), time)
        plain, told = denoiser(
            torch.cat([values, values]), torch.cat([times, times]), torch.cat([without, texts])
        ).chunk(2)
        clean = (plain + guidance * (told - plain)).clamp(-1, 1)
        share, earlier = shares[time], time - TRAIN_TIMES // steps
        implied = (values - share.sqrt() * clean) / (1 - share).sqrt()
        reached = shares[earlier] if earlier >= 0 else torch.tensor(1.0)
        values = reached.sqrt() * clean + (1 - reached).sqrt() * implied
    return values


def save_schedule(folder: Path) -> None:
    """Write scheduler_config.json as diffusers reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scheduler_config.json").write_text(json.dumps(SCHEDULE, indent=2) + "\n")

"""The noise schedule and deterministic sampler of the demo painter: one setting of diffusers' DDIMScheduler.

With the signal share a_t of the cosine schedule, noisy = sqrt(a_t) clean + sqrt(1 - a_t) noise. A step of DDIM (Song et
al., 2021, arXiv 2010.02502) predicts the clean image, clips it, computes the noise that it implies, and mixes both with
the share of the next time: diffusers' `step(..., use_clipped_model_output=True)`.
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
    """Return the share of the signal in the variance at each time, float32 [TRAIN_TIMES], decreasing."""

    def share(place: float) -> float:
        return math.cos((place + 0.008) / 1.008 * math.pi / 2) ** 2

    kept = [max(share((t + 1) / TRAIN_TIMES) / share(t / TRAIN_TIMES), 0.001) for t in range(TRAIN_TIMES)]
    return torch.tensor(kept, dtype=torch.float32).cumprod(0)


def add_noise(images: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """Return images [n, 3, height, width] mixed with noise of the same shape, at times [n]."""
    share = signal_shares()[times].view(-1, 1, 1, 1)  # [n, 1, 1, 1]
    return share.sqrt() * images + (1 - share).sqrt() * noise


@torch.no_grad()
def sample(denoiser: Denoiser, texts: torch.Tensor, *, seeds: list[int], steps: int, guidance: float) -> torch.Tensor:
    """Return images [n, 3, SIDE, SIDE] in [-1, 1] for text embeddings [n, d].

    denoiser: predicts clean images.
    texts: text embeddings, [n, d].
    seeds: of the initial noise, one per image.
    steps: number of denoising steps.
    guidance: classifier-free guidance: 0 ignores the text, 1 uses the prediction with the text, more extrapolates.

    Raises ValueError for steps outside 1..TRAIN_TIMES.
    """
    if not 1 <= steps <= TRAIN_TIMES:
        raise ValueError(f"steps is {steps}; give 1 to {TRAIN_TIMES}")
    noise = [torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    values = torch.stack(noise)  # [n, 3, SIDE, SIDE]
    without = torch.zeros_like(texts)
    shares = signal_shares()
    for time in (round(TRAIN_TIMES - k * TRAIN_TIMES / steps) - 1 for k in range(steps)):
        times = torch.full((len(values),), time)
        unconditional, conditional = denoiser(
            torch.cat([values, values]), torch.cat([times, times]), torch.cat([without, texts])
        ).chunk(2)
        clean = (unconditional + guidance * (conditional - unconditional)).clamp(-1, 1)
        share, earlier = shares[time], time - TRAIN_TIMES // steps
        implied = (values - share.sqrt() * clean) / (1 - share).sqrt()
        reached = shares[earlier] if earlier >= 0 else torch.tensor(1.0)
        values = reached.sqrt() * clean + (1 - reached).sqrt() * implied
    return values


def save_schedule(folder: Path) -> None:
    """Write scheduler_config.json in the format of diffusers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scheduler_config.json").write_text(json.dumps(SCHEDULE, indent=2) + "\n")

"""The denoiser of the demo painter: diffusers' UNet2DConditionModel with one configuration, in plain torch.

Modules have diffusers' names, so `UNet2DConditionModel.from_pretrained` reads the same folder and computes the same
numbers. The network works on patches of `PATCH` x `PATCH` pixels as channels, so convolutions cover more of the image.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle, silu

PATCH, SIDE = 4, 32
WIDTHS, GROUPS, TIME_WIDTH, CONDITION = (80, 112), 16, 256, 128
WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": SIDE // PATCH,
    "in_channels": 3 * PATCH**2,
    "out_channels": 3 * PATCH**2,
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "block_out_channels": list(WIDTHS),
    "layers_per_block": 1,
    "norm_num_groups": GROUPS,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "scale_shift",
    "time_embedding_dim": TIME_WIDTH,
    "class_embed_type": "simple_projection",
    "projection_class_embeddings_input_dim": CONDITION,
    "cross_attention_dim": CONDITION,
}


class _Resnet(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, inside, eps=1e-5)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.time_emb_proj = nn.Linear(TIME_WIDTH, 2 * outside)
        self.norm2 = nn.GroupNorm(GROUPS, outside, eps=1e-5)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        if inside != outside:
            self.conv_shortcut = nn.Conv2d(inside, outside, 1)

    def forward(self, values: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        scale, shift = self.time_emb_proj(silu(condition))[:, :, None, None].chunk(2, dim=1)  # [n, outside, 1, 1]
        inner = self.norm2(self.conv1(silu(self.norm1(values)))) * (1 + scale) + shift
        straight = self.conv_shortcut(values) if hasattr(self, "conv_shortcut") else values
        out: torch.Tensor = straight + self.conv2(silu(inner))
        return out


class _Resampled(nn.Module):
    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=stride, padding=1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        resampled: torch.Tensor = self.conv(values)
        return resampled


class _Down(nn.Module):
    def __init__(self, resnets: list[_Resnet], width: int = 0) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.downsamplers = nn.ModuleList([_Resampled(width, 2)] if width else [])

    def forward(self, values: torch.Tensor, condition: torch.Tensor) -> list[torch.Tensor]:
        passed = []
        for resnet in self.resnets:
            values = resnet(values, condition)
            passed.append(values)
        for downsampler in self.downsamplers:
            values = downsampler(values)
            passed.append(values)
        return passed


class _Up(nn.Module):
    def __init__(self, resnets: list[_Resnet], width: int = 0) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.upsamplers = nn.ModuleList([_Resampled(width, 1)] if width else [])

    def forward(self, values: torch.Tensor, condition: torch.Tensor, passed: list[torch.Tensor]) -> torch.Tensor:
        for resnet in self.resnets:
            values = resnet(torch.cat([values, passed.pop()], dim=1), condition)
        for upsampler in self.upsamplers:
            values = upsampler(interpolate(values, scale_factor=2.0, mode="nearest"))
        return values


class _Projection(nn.Module):
    def __init__(self, inside: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inside, TIME_WIDTH)
        self.linear_2 = nn.Linear(TIME_WIDTH, TIME_WIDTH)


class Denoiser(nn.Module):
    """Predicts clean images from noisy images, times and text embeddings; a zero embedding means no text."""

    def __init__(self) -> None:
        super().__init__()
        outer, inner = WIDTHS
        self.conv_in = nn.Conv2d(3 * PATCH**2, outer, 3, padding=1)
        self.time_embedding = _Projection(outer)
        self.class_embedding = nn.Linear(CONDITION, TIME_WIDTH)
        nn.init.normal_(self.class_embedding.weight)  # with the default, unit-length texts would have little effect
        self.down_blocks = nn.ModuleList([_Down([_Resnet(outer, outer)], outer), _Down([_Resnet(outer, inner)])])
        self.mid_block = _Down([_Resnet(inner, inner)])
        self.up_blocks = nn.ModuleList(
            [
                _Up([_Resnet(2 * inner, inner), _Resnet(inner + outer, inner)], inner),
                _Up([_Resnet(inner + outer, outer), _Resnet(2 * outer, outer)]),
            ]
        )
        self.conv_norm_out = nn.GroupNorm(GROUPS, outer, eps=1e-5)
        self.conv_out = nn.Conv2d(outer, 3 * PATCH**2, 3, padding=1)

    def forward(self, noisy: torch.Tensor, times: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Return the predicted clean images [n, 3, SIDE, SIDE] for noisy images, times [n] and texts [n, d]."""
        return pixel_shuffle(self.denoise_patches(pixel_unshuffle(noisy, PATCH), times, texts), PATCH)

    def denoise_patches(self, noisy: torch.Tensor, times: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Return the same for images with patches as channels, [n, 48, 8, 8]: the input of diffusers' model."""
        time = self.time_embedding
        given = time.linear_2(silu(time.linear_1(_waves(times, WIDTHS[0])))) + self.class_embedding(texts)  # [n, 256]
        values = self.conv_in(noisy)  # [n, 80, 8, 8]
        passed = [values]
        for block in self.down_blocks:
            passed += block(passed[-1], given)
        values = self.mid_block(passed[-1], given)[-1]
        for block in self.up_blocks:
            values = block(values, given, passed)
        out: torch.Tensor = self.conv_out(silu(self.conv_norm_out(values)))
        return out


def _waves(times: torch.Tensor, width: int) -> torch.Tensor:
    """Return cosines and sines of times [n] at geometrically spaced frequencies, [n, width]."""
    half = width // 2
    angles = times.float()[:, None] * torch.exp(-math.log(10_000) * torch.arange(half, device=times.device) / half)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def save_denoiser(denoiser: Denoiser, folder: Path) -> None:
    """Write config.json and the weights in half precision, in the layout of diffusers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    state = {key: value.half().contiguous() for key, value in denoiser.state_dict().items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def load_denoiser(folder: Path) -> Denoiser:
    """Load a denoiser from `save_denoiser`, frozen, in float32; raises ValueError for another configuration."""
    found = json.loads((folder / "config.json").read_text())
    differing = sorted(key for key in CONFIG if found.get(key) != CONFIG[key])
    if differing:
        key = differing[0]
        raise ValueError(
            f"{folder}: {key} is {found.get(key)!r}, not {CONFIG[key]!r}; load other models through diffusers"
        )
    denoiser = Denoiser()
    denoiser.load_state_dict({key: value.float() for key, value in load_file(folder / WEIGHTS).items()})
    return denoiser.eval().requires_grad_(False)

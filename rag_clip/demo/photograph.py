"""Render textures as photographs: pose, light, background, occlusion, blur and noise, for a whole batch at once."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate

PHOTO = 64


class Uniform(Protocol):
    """Draws uniform random numbers, a tensor of the given shape per image."""

    def __call__(self, low: float, high: float, *shape: int) -> torch.Tensor:
        """Return [n, *shape] from [low, high)."""


def photograph(textures: torch.Tensor, *, seed: int, size: int = PHOTO) -> torch.Tensor:
    """Render RGBA textures uint8 [n, 4, t, t] as RGB uint8 [n, 3, size, size]; equal seeds give equal photographs.

    Each image has its own rotation (up to 20 degrees), scale, shear, position and ripple, light from one side, a
    two-tone mottled background, an occluding bar (three images in ten), blur and sensor noise.
    """
    draw = torch.Generator().manual_seed(seed)
    n = len(textures)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(n, *shape, generator=draw) * (high - low) + low

    grid = _pose(uniform, size)  # [n, size, size, 2]
    seen = grid_sample(_premultiplied(textures), grid, align_corners=False)  # [n, 4, size, size]
    image = seen[:, :3] + (1 - seen[:, 3:]) * _background(uniform, size)  # [n, 3, size, size]
    image = _occlude(image, uniform)
    image = image * _light(uniform, size)
    blur = uniform(0, 0.9, 1, 1, 1)
    image = (1 - blur) * image + blur * avg_pool2d(image, 3, stride=1, padding=1, count_include_pad=False)
    image = image + uniform(0.0, 0.06, 1, 1, 1) * torch.randn(image.shape, generator=draw)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def _premultiplied(textures: torch.Tensor) -> torch.Tensor:
    rgba = textures.float() / 255
    return torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)


def _pose(uniform: Uniform, size: int) -> torch.Tensor:
    angle, zoom, stretch = uniform(-0.35, 0.35), uniform(1.02, 1.55), uniform(0.88, 1.14)
    shear, shift = uniform(-0.18, 0.18), uniform(-0.16, 0.16, 2)
    cosine, sine = angle.cos() * zoom, angle.sin() * zoom
    rows = [cosine * stretch, -sine + shear, shift[:, 0], sine, cosine / stretch, shift[:, 1]]
    grid = affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), [len(angle), 1, size, size], align_corners=False)
    phase, depth = uniform(0, 2 * math.pi, 1, 1), uniform(0, 0.05, 1, 1)
    ripple = depth * torch.sin(4.0 * grid[..., 0] + phase)
    return torch.stack([grid[..., 0], grid[..., 1] + ripple], dim=-1)


def _background(uniform: Uniform, size: int) -> torch.Tensor:
    top = uniform(0.2, 0.9, 1, 1, 1) + uniform(-0.12, 0.12, 3, 1, 1)
    bottom = uniform(0.2, 0.9, 1, 1, 1) + uniform(-0.12, 0.12, 3, 1, 1)
    down = torch.linspace(0, 1, size).view(1, 1, size, 1)
    mottle = interpolate(uniform(-0.12, 0.12, 1, 6, 6), size=(size, size), mode="bilinear", align_corners=False)
    return (top + (bottom - top) * down + mottle).clamp(0, 1)


def _occlude(image: torch.Tensor, uniform: Uniform) -> torch.Tensor:
    size = image.shape[-1]
    there, across = uniform(0, 1, 1, 1, 1) < 0.3, uniform(0, 1, 1, 1, 1) < 0.5
    start, width = uniform(0, 0.9, 1, 1, 1), uniform(0.05, 0.16, 1, 1, 1)
    position = torch.arange(size) / size
    columns, rows = position.view(1, 1, 1, size), position.view(1, 1, size, 1)
    along = torch.where(across, columns, rows)
    bar = there & (along >= start) & (along < start + width)
    return torch.where(bar, uniform(0.1, 0.7, 3, 1, 1), image)


def _light(uniform: Uniform, size: int) -> torch.Tensor:
    gain, tint = uniform(0.65, 1.2, 1, 1, 1), uniform(0.92, 1.08, 3, 1, 1)
    slope = uniform(-0.22, 0.22, 2, 1, 1)
    at = torch.linspace(-1, 1, size)
    return gain * tint * (1 + slope[:, :1] * at.view(1, 1, 1, size) + slope[:, 1:] * at.view(1, 1, size, 1))

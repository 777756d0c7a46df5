"""The device to compute on."""

from __future__ import annotations

import torch


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """Return `device`, or CUDA, MPS or the CPU, whichever is there first; raises ValueError where it cannot be used."""
    device = device or _default()
    try:
        place = torch.device(device)
        torch.zeros(1, device=place).item()
    except Exception as error:  # torch raises RuntimeError, AssertionError or NotImplementedError, by kind of device
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"device {str(device)!r} cannot be used ({reason}); give cpu, cuda, cuda:N or mps") from None
    return place


def _default() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"

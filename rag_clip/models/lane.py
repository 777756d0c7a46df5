"""The way to a device and back: on a GPU copies run beside the work, and only who asks for a result waits for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch


class Lane(Protocol):
    """Sends batches to a device, and fetches results; `ahead` batches are sent before the first result is fetched."""

    ahead: int

    def send(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return rows [n, ...] that stand one below the other in `parts`, on the device."""

    def fetch(self, found: torch.Tensor) -> Callable[[], np.ndarray]:
        """Return a function that waits for the values of a tensor of the device, and returns them."""


def lane_to(device: torch.device) -> Lane:
    """Return the lane to a device; that to a CPU, or to MPS, whose streams PyTorch does not show, is direct."""
    return _Direct(device) if device.type in ("cpu", "mps") else _Streamed(device)


class _Direct:
    """Each batch is copied, computed and fetched in turn."""

    ahead = 0

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def send(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat(list(parts)).to(self._device)

    def fetch(self, found: torch.Tensor) -> Callable[[], np.ndarray]:
        values: np.ndarray = found.cpu().numpy()
        return lambda: values


class _Streamed:
    """A batch is copied from pinned memory by a stream of its own while the batch before it is computed.

    Pinned memory comes from PyTorch's allocator, which hands it out again only when the copies from it are done.
    """

    ahead = 1

    def __init__(self, device: torch.device) -> None:
        self._device, self._streams = device, torch.get_device_module(device)
        self._copying = self._streams.Stream(device)

    def send(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        rows, first = sum(map(len, parts)), parts[0]
        staged = torch.cat(list(parts), out=torch.empty((rows, *first.shape[1:]), dtype=first.dtype, pin_memory=True))
        with self._streams.stream(self._copying):
            there = staged.to(self._device, non_blocking=True)
        computing = self._streams.current_stream(self._device)
        computing.wait_stream(self._copying)
        there.record_stream(computing)
        return there

    def fetch(self, found: torch.Tensor) -> Callable[[], np.ndarray]:
        back = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
        back.copy_(found, non_blocking=True)
        done = self._streams.Event()
        done.record(self._streams.current_stream(self._device))

        def values() -> np.ndarray:
            done.synchronize()
            return back.numpy().copy()

        return values

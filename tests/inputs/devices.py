"""An encoder that ends its process, in a module that other processes can import."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from rag_clip.data import Features
from rag_clip.testing import ToyEncoder


@dataclass(frozen=True, slots=True)
class FatalEncoder(ToyEncoder):
    """Ends the process that encodes, the first time or always, and leaves a file that says so."""

    place: str = ""
    always: bool = False

    def encode_pixels(self, pixels: torch.Tensor, *, patches: bool = False) -> Features:
        """Encode, or end the process."""
        try:
            (Path(self.place) / "ended").touch(exist_ok=self.always)  # of several processes one is the first
        except FileExistsError:
            return ToyEncoder.encode_pixels(self, pixels, patches=patches)
        os.kill(os.getpid(), signal.SIGKILL)
        return ToyEncoder.encode_pixels(self, pixels, patches=patches)


@dataclass(frozen=True, slots=True)
class SlowEncoder(ToyEncoder):
    """Takes a while for each batch, so that a node can be lost meanwhile."""

    def encode_pixels(self, pixels: torch.Tensor, *, patches: bool = False) -> Features:
        """Encode after a while."""
        time.sleep(0.2)
        return ToyEncoder.encode_pixels(self, pixels, patches=patches)


def read_file(_encoder: object, _given: None, path: Path) -> bytes:
    """Return the content of a file."""
    return path.read_bytes()


def multiply(_encoder: object, given: int, unit: int) -> int:
    """Multiply what all units share with a unit."""
    return given * unit

"""An encoder in another process: loaded by its name on a device there, or sent as it is."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial

from rag_clip.protocols import Encoder


def portable(encoder: Encoder) -> Callable[[str], Encoder]:
    """Return a function, which can be pickled, that makes the encoder on a device of another process.

    A model that `load_encoder` loads is loaded again by its name, and must have the same fingerprint; another encoder
    on the CPU is sent whole. Raises ValueError for one on another device that no name loads.
    """
    made_with = encoder.fingerprint
    if made_with.spec and made_with.spec == encoder.name:
        return partial(_load, made_with.spec, made_with.precision, made_with.key)
    if encoder.device.type != "cpu":
        raise ValueError(f"{encoder.name!r} was changed in memory, so no other process can load it; give one device")
    return partial(_unpack, pickle.dumps(encoder))


def _load(spec: str, precision: str, key: str, device: str) -> Encoder:
    from rag_clip.models.open_clip import load_encoder

    encoder = load_encoder(spec, device=device, precision=precision)
    if encoder.fingerprint.key != key:
        raise ValueError(f"{spec!r} is another model on {device} than where the job was started; give the same files")
    return encoder


def _unpack(content: bytes, _device: str) -> Encoder:
    encoder: Encoder = pickle.loads(content)
    return encoder

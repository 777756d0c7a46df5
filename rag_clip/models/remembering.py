"""An encoder that encodes no text twice, for a job that asks for the vectors of the same texts in several places."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch

from rag_clip.data import EncodedTexts
from rag_clip.protocols import Encoder

MOST_BYTES = 1 << 30


class RememberedTexts:
    """Vectors of texts by text, up to `most_bytes`; further texts are encoded each time they are asked for."""

    def __init__(self, encoder: Encoder, *, most_bytes: int = MOST_BYTES) -> None:
        self._encoder, self._most = encoder, most_bytes // (4 * encoder.dim)
        self._vectors: dict[str, torch.Tensor] = {}

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Return float32 unit rows [t, d]; only texts that are not remembered are encoded, each once."""
        known = self._vectors
        new = [text for text in dict.fromkeys(texts) if text not in known]
        found = {text: known[text] for text in texts if text in known}
        if new:
            vectors = self._encoder.encode_text(new).float()
            room = max(0, self._most - len(known))
            known.update(zip(new[:room], vectors[:room], strict=True))
            if len(new) == len(texts):
                return vectors
            found.update(zip(new, vectors, strict=True))
        return torch.stack([found[text] for text in texts]) if texts else torch.zeros(0, self._encoder.dim)

    def encoded(self, texts: Iterable[str]) -> EncodedTexts | None:
        """Return what is remembered of some texts; None where that is nothing."""
        held = {text: self._vectors[text] for text in texts if text in self._vectors}
        if not held:
            return None
        vectors = torch.stack([*held.values()]).cpu().numpy()
        return EncodedTexts(tuple(held), vectors, self._encoder.fingerprint, self._encoder.device.type)


class _Remembering:
    """The encoder, with another `encode_text`."""

    def __init__(self, encoder: Encoder, memory: RememberedTexts) -> None:
        self._encoder, self.memory, self.encode_text = encoder, memory, memory.encode

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)


def remembering(encoder: Encoder) -> tuple[Encoder, RememberedTexts]:
    """Return an encoder with the same vectors that encodes each text once, and what it remembers.

    An encoder that this function returned is returned with the memory that it has.
    """
    if isinstance(encoder, _Remembering):
        return cast(Encoder, encoder), encoder.memory
    memory = RememberedTexts(encoder)
    return cast(Encoder, _Remembering(encoder, memory)), memory

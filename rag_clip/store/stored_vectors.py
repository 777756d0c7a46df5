"""Vectors of captions from the index, so that prompts that quote captions need not encode them again."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import numpy as np

from rag_clip.data import Fingerprint, Prompts
from rag_clip.store import Store

CAPTIONS = "text"


def stored_vectors(variants: Sequence[Prompts], store: Store, *, encoder: Fingerprint) -> dict[str, np.ndarray]:
    """Return the unit vectors [d], by text, of prompt texts that are captions in the store, for zero_shot(known=...).

    A text is included if its evidence is a stored caption with exactly this text; a caption without the class name is
    another text. Empty where the index was built with another encoder, or has no vectors of captions.

    Accuracy is that of the index: 1e-6 where float32 vectors were added directly, and 1e-3 (float16 rounding) where
    they came through the shards of `build_index`, the schema stores float16, or the encoder used another precision.
    """
    names = [vector.name for vector in store.card.schema.vectors]
    if CAPTIONS not in names or not store.card.encoder.agrees_with(encoder):
        return {}
    texts = (text for prompts in variants for group in prompts.texts for text in group if _is_id(text.evidence))
    quoted = {(text.evidence, text.text) for text in texts}
    hits = [hit for hit in store.fetch(sorted({name for name, _text in quoted})) if (hit.id, hit.text) in quoted]
    vectors = store.vectors([hit.id for hit in hits], vector=CAPTIONS)
    return {hit.text: vectors[hit.id] for hit in hits}


def _is_id(evidence: str) -> bool:
    """Return whether `evidence` is a caption id (a lower-case UUID)."""
    try:
        return str(uuid.UUID(evidence)) == evidence
    except ValueError:
        return False

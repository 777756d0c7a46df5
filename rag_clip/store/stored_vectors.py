"""Captions that an index holds are encoded already: their vectors, for prompts that quote them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import numpy as np

from rag_clip.data import Fingerprint, Prompts
from rag_clip.store import Store

CAPTIONS = "text"


def stored_vectors(variants: Sequence[Prompts], store: Store, *, encoder: Fingerprint) -> dict[str, np.ndarray]:
    """Return, by text, the unit vector [d] of every text that the store holds word for word, for zero_shot(known=...).

    A text counts when its evidence is in the store and has the same text; captions whose class name was left out are
    other texts. Empty where the index was built with another encoder, or holds no vectors of captions.

    The vectors are as exact as the index: to 1e-6 where float32 vectors were added to it directly, and to 1e-3 (each
    number rounded to float16) where they came through the shards of `build_index`, the schema stores float16, or the
    encoder computed in another precision.
    """
    names = [vector.name for vector in store.card.schema.vectors]
    if CAPTIONS not in names or not store.card.encoder.agrees_with(encoder):
        return {}
    texts = (text for prompts in variants for group in prompts.texts for text in group if _is_id(text.evidence))
    quoted = {(text.evidence, text.text) for text in texts}
    held = [hit for hit in store.fetch(sorted({name for name, _text in quoted})) if (hit.id, hit.text) in quoted]
    vectors = store.vectors([hit.id for hit in held], vector=CAPTIONS)
    return {hit.text: vectors[hit.id] for hit in held}


def _is_id(evidence: str) -> bool:
    """Tell the id of a caption from what other sources name their texts by."""
    try:
        return str(uuid.UUID(evidence)) == evidence
    except ValueError:
        return False

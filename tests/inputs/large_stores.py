"""Indexes of many made captions around a few centres."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rag_clip.data import Fingerprint
from rag_clip.store import Store, caption_id, create_store, load_schema

DIM = 32
ENCODER = Fingerprint("toy", "", "weights-1", "8x8")
SLOW = {"hnsw": load_schema().hnsw.model_copy(update={"full_scan_threshold": 10, "ef_construct": 800, "m": 64})}


def make(folder: Path, **changes: Any) -> Store:
    schema = load_schema().model_copy(update=changes)
    return create_store(folder, schema=schema, encoder=ENCODER, dim=DIM)


def fill(store: Store, count: int, seed: int = 0) -> np.ndarray:
    """Add `count` captions of three words around a few centres; return their vectors in the order of ids."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, store.card.dim))
    vectors = (centres[rng.integers(0, 20, count)] + 0.3 * rng.standard_normal((count, store.card.dim))).astype("f4")
    texts = [f"caption number {row}" for row in range(count)]
    ids = [caption_id("made", text) for text in texts]
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), store.card.dim)
    columns = {"id": ids, "text": texts, "source": ["made"] * count, "vector": flat}
    store.upsert(pa.record_batch(columns))
    return vectors[np.argsort(ids)]

"""Candidates made by hand, for the tests of what chooses among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rag_clip.support.retrieved import Candidates


def candidates(
    classes: Sequence[int],
    features: torch.Tensor,
    *,
    phash: Sequence[int] | None = None,
    noise: Sequence[float] | None = None,
    sources: Sequence[str] | None = None,
) -> Candidates:
    """Rows with ids `0`, `1`, ... whose hashes, where not given, all differ in half of their bits."""
    count = len(classes)
    draw = np.random.default_rng(5)
    hashes = draw.integers(1, 2**63, count, dtype=np.uint64) if phash is None else np.array(phash, np.uint64)
    return Candidates(
        np.array(classes, np.int64),
        tuple(map(str, range(count))),
        torch.nn.functional.normalize(features.float(), dim=1),
        tuple(f"sha{row}" for row in range(count)),
        hashes,
        np.full(count, np.nan) if noise is None else np.array(noise, np.float64),
        tuple(sources) if sources else ("web",) * count,
    )

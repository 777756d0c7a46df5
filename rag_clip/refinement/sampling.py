"""Samples and folds of images by a hash of their features, which do not depend on the order of the rows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from rag_clip.data import Features


def row_hashes(features: torch.Tensor) -> torch.Tensor:
    """Return a number from 0 to 2^63 - 1 for each row of `features` [n, d], int64 [n], equal for equal rows.

    Rows are taken in half precision, multiplied by odd numbers, summed, and mixed (splitmix64).
    """
    digits = features.detach().cpu().half().numpy().view(np.uint16).astype(np.uint64)  # [n, d]
    factors = np.random.default_rng(0).integers(0, 2**63, digits.shape[1], dtype=np.uint64) * np.uint64(2)
    hashes = (digits * (factors + np.uint64(1))).sum(1, dtype=np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * np.uint64(factor)
    mixed = (hashes ^ (hashes >> np.uint64(31))) >> np.uint64(1)
    return torch.from_numpy(mixed.astype(np.int64)).to(features.device)


def sample_images(parts: Iterable[Features], count: int) -> Features | None:
    """Return the `count` images of lowest hash, in the order of their hashes; all if there are fewer, None for none.

    Memory holds the sample and one part.
    """
    kept: Features | None = None
    for part in parts:
        kept = part if kept is None else _joined(kept, part)
        kept = take_images(kept, row_hashes(kept.pooled).argsort(stable=True)[:count])
    return kept


def take_images(images: Features, rows: torch.Tensor | slice) -> Features:
    """Return some images, without patches and ids."""
    return Features(images.pooled[rows], others={name: other[rows] for name, other in images.others.items()})


def _joined(first: Features, second: Features) -> Features:
    others = {name: torch.cat([other, second.others[name]]) for name, other in first.others.items()}
    return Features(torch.cat([first.pooled, second.pooled]), others=others)

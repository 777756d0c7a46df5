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

    Each image is hashed once. Memory holds twice the sample and one part.
    """
    kept: list[Features] = []
    hashes: list[torch.Tensor] = []
    largest = 2**63 - 1  # of a hash that may still be among the lowest
    for part in parts:
        found = row_hashes(part.pooled)
        rows = (found <= largest).nonzero()[:, 0]
        kept.append(take_images(part, rows))
        hashes.append(found[rows])
        if sum(map(len, hashes)) > 2 * count:
            lowest, sample = _lowest(kept, hashes, count)
            kept, hashes, largest = [sample], [lowest], int(lowest[-1])
    return _lowest(kept, hashes, count)[1] if kept else None


def _lowest(kept: list[Features], hashes: list[torch.Tensor], count: int) -> tuple[torch.Tensor, Features]:
    """Return the lowest `count` hashes, in order, and their images."""
    joined = torch.cat(hashes)
    rows = joined.argsort(stable=True)[:count]
    others = {name: torch.cat([each.others[name] for each in kept]) for name in kept[0].others}
    ids = tuple(name for each in kept for name in each.ids)
    return joined[rows], take_images(Features(torch.cat([each.pooled for each in kept]), ids=ids, others=others), rows)


def take_images(images: Features, rows: torch.Tensor | slice) -> Features:
    """Return some images, without patches."""
    others = {name: other[rows] for name, other in images.others.items()}
    kept = torch.arange(len(images.ids))[rows if isinstance(rows, slice) else rows.cpu()] if images.ids else ()
    return Features(images.pooled[rows], ids=tuple(images.ids[int(row)] for row in kept), others=others)

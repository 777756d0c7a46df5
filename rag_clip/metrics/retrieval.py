"""Image-text retrieval: recall at k in both directions, with one or several captions an image.

    R@k of images: share of images with one of their own captions among the k nearest captions
    R@k of captions: share of captions whose image is among the k nearest images

Karpathy and Fei-Fei, 2015 (arXiv 1412.2306). Equal scores count by their chance: a query is found with the probability
that a random order of the equal ones puts an own one among the first k, so no measure depends on the order of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
import torch

QUERIES_AT_ONCE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Retrieval:
    """The chance that each query finds its own among the first k: by k, for images [n] and for captions [t]."""

    images: dict[int, np.ndarray]
    captions: dict[int, np.ndarray]

    @property
    def mean_recall(self) -> float:
        """The mean of all recalls, of both directions."""
        return float(np.mean([found.mean() for found in (*self.images.values(), *self.captions.values())]))


def retrieval(
    images: torch.Tensor, captions: torch.Tensor, owners: torch.Tensor, *, ks: Sequence[int] = (1, 5, 10)
) -> Retrieval:
    """Rank captions for images, and images for captions, by cosine.

    images, captions: unit rows [n, d] and [t, d].
    owners: the image of each caption, int64 [t]; every image must have a caption.
    ks: the ranks.

    Raises ValueError for other shapes, values that are not finite, owners that are no rows of images, an image without
    a caption, and a k below 1.
    """
    _check(images, captions, owners, ks)
    found: dict[int, list[float]] = {k: [] for k in ks}
    for rows, scores in _blocks(images, captions):
        own = owners == rows[:, None]  # [b, t]
        best = scores.masked_fill(~own, -torch.inf).amax(1, keepdim=True)  # [b, 1]
        higher = ((scores > best) & ~own).sum(1).tolist()
        equal, tied = ((scores == best) & ~own).sum(1).tolist(), ((scores == best) & own).sum(1).tolist()
        for k in ks:
            found[k] += [_chance(k - h, e, o) for h, e, o in zip(higher, equal, tied, strict=True)]
    back: dict[int, list[float]] = {k: [] for k in ks}
    for rows, scores in _blocks(captions, images):
        own = scores.gather(1, owners[rows][:, None])  # [b, 1]
        higher, equal = (scores > own).sum(1).tolist(), ((scores == own).sum(1) - 1).tolist()
        for k in ks:
            back[k] += [_chance(k - h, e, 1) for h, e in zip(higher, equal, strict=True)]
    return Retrieval({k: np.array(found[k]) for k in ks}, {k: np.array(back[k]) for k in ks})


def _blocks(queries: torch.Tensor, items: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for rows in torch.split(torch.arange(len(queries)), QUERIES_AT_ONCE):
        yield rows, queries[rows].float() @ items.float().T


def _chance(places: int, others: int, own: int) -> float:
    """Return the chance that one of `own` is among the first `places` of a random order of them and the `others`."""
    if places <= 0:
        return 0.0
    if others == 0 or places > others:
        return 1.0
    return 1 - comb(others, places) / comb(others + own, places)


def _check(images: torch.Tensor, captions: torch.Tensor, owners: torch.Tensor, ks: Sequence[int]) -> None:
    if images.ndim != 2 or captions.ndim != 2 or images.shape[1] != captions.shape[1]:
        raise ValueError(
            f"images are {tuple(images.shape)} and captions {tuple(captions.shape)}; give rows of one width"
        )
    if len(owners) != len(captions) or not len(captions):
        raise ValueError(f"there are {len(captions)} captions and {len(owners)} owners; give one to each, and some")
    if int(owners.min()) < 0 or int(owners.max()) >= len(images):
        raise ValueError(f"owners are rows of the {len(images)} images, from 0")
    if bare := len(images) - len(set(owners.tolist())):
        raise ValueError(f"{bare} images have no caption; leave them out")
    if not (torch.isfinite(images).all() and torch.isfinite(captions).all()):
        raise ValueError("some features are not finite; encode again in fp32")
    if any(k < 1 for k in ks):
        raise ValueError(f"recall is at {min(ks)}; give ranks from 1 up")

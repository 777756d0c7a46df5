"""Keep the images that are about to be classified out of their own support, and say how many a corpus holds.

An image x of the corpus is a copy of an image y to classify where one of these holds:

    sha256(x) = sha256(y)      bits(phash(x) xor phash(y)) <= 8      f_x . f_y >= t

The threshold t is measured, not guessed: copies made of the images to classify (smaller, larger, recompressed, darker,
trimmed) must lie above it as far as different images allow,

    t = max( quantile(f_copy . f_original, 5 %), quantile(f_y . f_nearest different, 99.9 %) )

The second part guards encoders under which different photographs of one thing are as near as copies; the perceptual
hash finds the copies there. The gate and its order are ours; that copies of test sets are in web corpora, and that
leaving them out moves results, is in Mayilvahanan et al., 2023, arXiv 2310.09562.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rag_clip.perceptual import hash_distances
from rag_clip.support.retrieved import Candidates

NEAR_BITS = 8
FOUND = 0.95
FALSE_ALARMS = 0.001
PAIRS_AT_ONCE = 8_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """Images that must not be in a support set: SHA-256 of each of n, hashes uint64 [n], unit features [n, d]."""

    sha256: tuple[str, ...]
    phash: np.ndarray
    features: torch.Tensor


@dataclass(frozen=True, slots=True)
class Threshold:
    """A cosine from which on images count as copies; `recall` is the share of known copies that lie there."""

    cosine: float
    recall: float


@dataclass(frozen=True, slots=True, eq=False)
class Contained:
    """What `decontaminate` found: `clean` rows of the candidates; copies by the first way that told them.

    `images` of the `known` to classify have a copy among the candidates.
    """

    clean: np.ndarray
    exact: int
    perceptual: int
    cosine: int
    images: int
    known: int

    @property
    def rate(self) -> float:
        """The share of the images to classify that the candidates contain."""
        return self.images / self.known if self.known else 0.0


def calibrate_cosine(known: Known, copies: torch.Tensor) -> Threshold:
    """Measure the threshold on `copies`, unit rows [n, v, d], v copies of each of the first n known images.

    Raises ValueError for no copies.
    """
    if not copies.numel():
        raise ValueError("there are no copies to measure the threshold on; give at least one image")
    originals = known.features[: len(copies)].cpu()
    similar = torch.einsum("nvd,nd->nv", copies.float().cpu(), originals.float()).flatten().double().numpy()
    threshold = float(np.quantile(similar, 1 - FOUND))
    others = _nearest_others(known, len(copies))
    if len(others):
        threshold = max(threshold, float(np.quantile(others, 1 - FALSE_ALARMS)))
    # Rounding of stored vectors must not carry the nearest different pair over the threshold.
    threshold = min(threshold, 1 - 1e-4)
    return Threshold(threshold, float((similar >= threshold).mean()))


def decontaminate(candidates: Candidates, known: Known, *, cosine: float, bits: int = NEAR_BITS) -> Contained:
    """Find the candidates that copy a known image: the same bytes, at most `bits` of the hash apart, or a near cosine.

    Raises ValueError for a cosine outside (0, 1].
    """
    if not 0 < cosine <= 1:
        raise ValueError(f"the cosine of copies is {cosine}; give a number from above 0 to 1")
    exact = np.isin(np.array(candidates.sha256, dtype=object), list(set(known.sha256)))
    perceptual, close = np.zeros(len(candidates), bool), np.zeros(len(candidates), bool)
    contained = np.isin(np.array(known.sha256, dtype=object), list(set(candidates.sha256)))
    block = max(1, PAIRS_AT_ONCE // max(1, len(known.sha256)))
    for start in range(0, len(candidates), block):
        rows = slice(start, start + block)
        by_hash = near_hashes(candidates.phash[rows], known.phash, bits)
        by_cosine = (candidates.features[rows].to(known.features) @ known.features.T).cpu().numpy() >= cosine
        perceptual[rows], close[rows] = by_hash.any(1), by_cosine.any(1)
        contained |= (by_hash | by_cosine).any(0)
    copies = exact | perceptual | close
    return Contained(
        np.flatnonzero(~copies),
        int(exact.sum()),
        int((perceptual & ~exact).sum()),
        int((close & ~perceptual & ~exact).sum()),
        int(contained.sum()),
        len(known.sha256),
    )


def near_hashes(first: np.ndarray, second: np.ndarray, bits: int) -> np.ndarray:
    """Tell which hashes, uint64 [n] and [m], differ in at most `bits`: bool [n, m]. Images of one colour match none.

    They all have the hash 0, whatever the colour.
    """
    near: np.ndarray = (hash_distances(first, second) <= bits) & (first != 0)[:, None] & (second != 0)[None, :]
    return near


def _nearest_others(known: Known, count: int) -> np.ndarray:
    """Return for each of the first `count` images the cosine to the nearest one that is no copy of it by its hash."""
    features = known.features.float().cpu()
    nearest = []
    block = max(1, PAIRS_AT_ONCE // len(features))
    for start in range(0, count, block):
        rows = slice(start, min(start + block, count))
        cosines = (features[rows] @ features.T).double().numpy()
        cosines[near_hashes(known.phash[rows], known.phash, NEAR_BITS)] = -1
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -1
        nearest.append(cosines.max(1))
    found = np.concatenate(nearest)
    return found[found > -1]

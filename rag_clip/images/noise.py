"""Judge the noise of embedded pairs, block by block, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch

from rag_clip.corpus.noise import mismatched_losses, noise_probability, pair_losses
from rag_clip.images.cleaning import CleanPairs
from rag_clip.images.shards import VECTORS, unit_rows

BLOCK_PAIRS = 32_768


def judge_noise(pairs: CleanPairs, *, scale: float, device: torch.device) -> np.ndarray | None:
    """Return the probability float32 [n] that each pair is noise; None for fewer than two pairs.

    A pair is compared with others of its block, at most `BLOCK_PAIRS` neighbours in the order of the files, and
    with captions of others there; probabilities come from the losses of all (see corpus.noise).
    """
    if len(pairs) < 2:
        return None
    sizes = _even_blocks(len(pairs))
    losses, mismatched = [], []
    for block in _blocks(pairs, sizes):
        images, texts = (torch.from_numpy(rows).to(device) for rows in block)
        losses.append(pair_losses(images, texts, scale=scale))
        mismatched.append(mismatched_losses(images, texts, scale=scale))
    return noise_probability(np.concatenate(losses), np.concatenate(mismatched)).astype(np.float32)


def _even_blocks(n: int) -> list[int]:
    """Cut n pairs into blocks of nearly the same size, so that none is too small to compare within."""
    count = -(-n // BLOCK_PAIRS)
    return [n // count + (place < n % count) for place in range(count)]


def _blocks(pairs: CleanPairs, sizes: Sequence[int]) -> Iterator[list[np.ndarray]]:
    """Yield image and text vectors of consecutive pairs, as many as `sizes` says."""
    waiting: list[pa.Table] = []
    held = 0
    wanted = iter(sizes)
    size = next(wanted, 0)
    for table in pairs.read(VECTORS):
        waiting.append(table)
        held += len(table)
        while size and held >= size:
            block = pa.concat_tables(waiting)
            yield [unit_rows(block[name].slice(0, size), pairs.dim) for name in VECTORS]
            waiting, held = [block.slice(size)], held - size
            size = next(wanted, 0)

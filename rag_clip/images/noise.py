"""Estimate which embedded pairs are noise, block by block, so that memory does not grow with their number."""

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
    """Return the probability that each pair is noise, float32 [n]; None for fewer than two pairs.

    pairs: the n pairs.
    scale: exp(logit_scale) of the encoder.
    device: where the losses are computed.

    The loss of a pair compares it with the other pairs of its block, which are at most `BLOCK_PAIRS` neighbours in the
    order of the files. The probabilities are estimated from the losses of all blocks (see corpus.noise).
    """
    if len(pairs) < 2:
        return None
    sizes = _even_blocks(len(pairs))
    losses, mismatched = [], []
    for block in _blocks(pairs, sizes):
        images, texts = (torch.from_numpy(rows).to(device) for rows in block)  # [b, d] each
        losses.append(pair_losses(images, texts, scale=scale))
        mismatched.append(mismatched_losses(images, texts, scale=scale))
    return noise_probability(np.concatenate(losses), np.concatenate(mismatched)).astype(np.float32)


def _even_blocks(n: int) -> list[int]:
    """Divide n pairs into blocks of nearly equal size, so that no block is too small for comparisons."""
    count = -(-n // BLOCK_PAIRS)
    return [n // count + (place < n % count) for place in range(count)]


def _blocks(pairs: CleanPairs, sizes: Sequence[int]) -> Iterator[list[np.ndarray]]:
    """Yield image and text vectors, float32 [b, d] each, of consecutive blocks of the given sizes."""
    waiting: list[pa.Table] = []
    waiting_rows = 0
    remaining = iter(sizes)
    size = next(remaining, 0)
    for table in pairs.read(VECTORS):
        waiting.append(table)
        waiting_rows += len(table)
        while size and waiting_rows >= size:
            block = pa.concat_tables(waiting)
            yield [unit_rows(block[name].slice(0, size), pairs.dim) for name in VECTORS]
            waiting, waiting_rows = [block.slice(size)], waiting_rows - size
            size = next(remaining, 0)

"""Judge the noise of embedded pairs, block by block, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from rag_clip.corpus.noise import noise_probability, pair_losses

from .shards import VECTORS, PairShards, unit_rows

BLOCK_PAIRS = 32_768


def judge_noise(parts: Sequence[PairShards], *, scale: float, device: torch.device) -> np.ndarray | None:
    """Return the probability float32 [n] that each pair without an error is noise; None for fewer than two pairs.

    A pair is compared with others of its block, at most `BLOCK_PAIRS` neighbours in the order of the files; the mixture
    is fitted over all (see corpus.noise).
    """
    n = sum(table["error"].null_count for part in parts for table in part.read(["error"]))
    if n < 2:
        return None
    sizes = _even_blocks(n)
    losses = [
        pair_losses(*(torch.from_numpy(rows).to(device) for rows in block), scale=scale)
        for block in _blocks(parts, sizes)
    ]
    return noise_probability(np.concatenate(losses)).astype(np.float32)


def _even_blocks(n: int) -> list[int]:
    """Cut n pairs into blocks of nearly the same size, so that none is too small to compare within."""
    count = -(-n // BLOCK_PAIRS)
    return [n // count + (place < n % count) for place in range(count)]


def _blocks(parts: Sequence[PairShards], sizes: Sequence[int]) -> Iterator[list[np.ndarray]]:
    """Yield image and text vectors of consecutive pairs, as many as `sizes` says."""
    waiting: list[pa.Table] = []
    held = 0
    wanted = iter(sizes)
    size = next(wanted, 0)
    for part in parts:
        for table in part.read([*VECTORS, "error"]):
            good = table.filter(pc.is_null(table["error"])).select(VECTORS)
            waiting.append(good)
            held += len(good)
            while size and held >= size:
                block = pa.concat_tables(waiting)
                yield [unit_rows(block[name].slice(0, size), part.dim) for name in VECTORS]
                waiting, held = [block.slice(size)], held - size
                size = next(wanted, 0)

"""Masks as COCO's run-length encoding, which `pycocotools.mask.decode({"size": [h, w], "counts": text})` reads.

Runs of pixels go down the columns, the first of zeros. From the fourth on a run is written as its difference from the
run two before; numbers have five bits per character, the lowest first, from "0" on, with 32 for "more follow".
"""

from __future__ import annotations

import numpy as np


def encode_mask(mask: np.ndarray) -> str:
    """Return the runs of a mask bool [height, width] as text."""
    pixels = np.asfortranarray(mask).ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[False], pixels, [not pixels[-1] if len(pixels) else True]])))
    runs = np.diff(np.concatenate([[0], edges])).tolist()
    return "".join(_packed(run - (runs[place - 2] if place > 2 else 0)) for place, run in enumerate(runs))


def decode_mask(counts: str, size: tuple[int, int]) -> np.ndarray:
    """Return the mask bool [height, width] of `counts`; raises ValueError for runs that do not fill it."""
    runs: list[int] = []
    number = shift = 0
    for character in counts:
        bits = ord(character) - 48
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                number -= 1 << shift
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    if shift or min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
        raise ValueError(f"the runs do not fill a mask of {size[0]} x {size[1]} pixels")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(size, order="F")


def _packed(number: int) -> str:
    text = ""
    while True:
        bits = number & 31
        number >>= 5
        if number == (-1 if bits & 16 else 0):
            return text + chr(bits + 48)
        text += chr(bits + 32 + 48)

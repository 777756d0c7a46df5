"""Segmentation by patches: which text is truest of each place of an image (PACL; Mukhoti et al., 2023, 2212.04994).

    M_k = n(V) t_k on the grid of patches, interpolated bilinearly to the image;      class of a pixel = argmax_k M_k

The argmax is over classes; patches are never compared with one another. A pixel is background if its best M_k is below
a threshold, or if the best text is one of explicit texts of the background.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import interpolate

VALUES_AT_ONCE = 1 << 24
BACKGROUND = -1


@dataclass(frozen=True, slots=True, eq=False)
class Segmented:
    """The best class of each pixel, int64 [height, width], `BACKGROUND` for none, and its M, float32 of that shape."""

    classes: torch.Tensor
    values: torch.Tensor


def segment(
    maps: torch.Tensor, *, size: tuple[int, int], classes: int | None = None, threshold: float | None = None
) -> Segmented:
    """Return the best class of each pixel of an image.

    maps: the cosines of the patches with each text, [t, rows, columns].
    size: height and width of the image.
    classes: how many of the texts, the first ones, are classes; the others are of the background. All if None.
    threshold: pixels whose best cosine is below it are background.

    Memory is bounded for any number of texts. Of equal cosines the first text is taken.
    """
    height, width = size
    block = max(1, VALUES_AT_ONCE // (height * width))
    best = torch.full(size, -torch.inf, device=maps.device)
    labels = torch.zeros(size, dtype=torch.int64, device=maps.device)
    for start in range(0, len(maps), block):
        values, rows = enlarge(maps[start : start + block], size).max(0)  # [height, width]
        better = values > best
        best, labels = torch.where(better, values, best), torch.where(better, rows + start, labels)
    nothing = labels >= (len(maps) if classes is None else classes)
    if threshold is not None:
        nothing |= best < threshold
    return Segmented(labels.masked_fill(nothing, BACKGROUND), best)


def enlarge(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return maps [t, rows, columns] interpolated bilinearly to [t, height, width]."""
    enlarged: torch.Tensor = interpolate(maps[None].float(), size=size, mode="bilinear", align_corners=False)[0]
    return enlarged

"""Files of masks of small images, as `segment` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rag_clip.files.rle import encode_mask

LEFT, RIGHT = np.array([[1, 1, 0, 0]] * 2, bool), np.array([[0, 0, 1, 1]] * 2, bool)


def mask(row: int, label: str | None, pixels: np.ndarray | None) -> dict[str, Any]:
    """Return a row of the file: a mask [2, 4] of a class in an image."""
    counts = None if pixels is None else encode_mask(pixels)
    return {"row": row, "label": label, "height": 2, "width": 4, "counts": counts}


def write_masks(path: Path, *masks: dict[str, Any]) -> Path:
    """Write masks, by default of one boat."""
    pq.write_table(pa.Table.from_pylist(list(masks) or [mask(0, "boat", LEFT)]), path)
    return path

"""Whether the images of a file may have several labels each, told before they are read."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def holds_several(path: str | Path, label_column: str = "label") -> bool:
    """Tell whether images of a file, or of the first Parquet file of a folder, may have several labels, by their type.

    A file that is not there or not readable holds none; what reads it says so.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as held:
                return "label" in held and len(held["label"].shape) == 2
        first = path if path.is_file() else next(iter(sorted(path.glob("*.parquet"))), None)
        schema = None if first is None else pq.read_schema(first)
    except (OSError, ValueError, pa.ArrowException, zipfile.BadZipFile):
        return False
    kind = schema.field(label_column).type if schema and label_column in schema.names else pa.null()
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))

"""Rows keyed by uint64 on disk: parts being sorted (`Spill`), and sorted columns to look up in (`MappedColumns`).

However many rows there are, a spill holds in memory the part being written or one range of the keys. Mapped columns are
searched by bisection; the operating system keeps of the files what it has room for, and processes share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl

from rag_clip.errors import disk_errors

KEY = "key"
RANGE_ROWS = 2_000_000
_GROUP_ROWS = 50_000


def write_columns(folder: Path, parts: Iterable[Mapping[str, np.ndarray]], dtypes: Mapping[str, str]) -> int:
    """Append the parts, keys ascending throughout, to one file a column; return the rows written.

    `dtypes` names the columns, among them `key`, with their little-endian types.
    """
    folder.mkdir(parents=True)
    files = {name: (folder / name).open("wb") for name in dtypes}
    rows = 0
    try:
        for part in parts:
            for name, file in files.items():
                file.write(np.ascontiguousarray(part[name], dtype=dtypes[name]).data)
            rows += len(part[KEY])
    finally:
        for file in files.values():
            file.close()
    return rows


class MappedColumns:
    """What `write_columns` wrote, opened for look-ups."""

    def __init__(self, folder: Path, dtypes: Mapping[str, str]) -> None:
        self.folder = folder
        self._columns = {name: _open(folder / name, dtype) for name, dtype in dtypes.items()}

    def __len__(self) -> int:
        return len(self._columns[KEY])

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return for keys uint64 [n] whether each is there, and at which row (0 where it is not)."""
        if not len(self):
            return np.zeros(len(keys), bool), np.zeros(len(keys), np.int64)
        places = np.searchsorted(self._columns[KEY], keys).clip(max=len(self) - 1)
        found = self._columns[KEY][places] == keys
        return found, np.where(found, places, 0)

    def values(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return a column at the rows."""
        return np.asarray(self._columns[name][rows]) if len(self) else np.zeros(len(rows), self._columns[name].dtype)


def _open(path: Path, dtype: str) -> np.ndarray:
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)


class Spill:
    """Parts in a folder that is made empty; every table written has a column `key` and the same other columns."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows = 0
        self._parts: list[Path] = []
        folder.mkdir(parents=True)

    def write(self, rows: pl.DataFrame) -> None:
        """Sort the rows by key and write them as a part; raises OSError where the disk is full."""
        if not len(rows):
            return
        path = self._folder / f"{len(self._parts):06d}.parquet"
        with disk_errors(path):
            rows.sort("key").write_parquet(path, compression="lz4", row_group_size=_GROUP_ROWS, statistics=True)
        self._parts.append(path)
        self._rows += len(rows)

    def ranges(self) -> Iterator[pl.DataFrame]:
        """Yield every row, in ranges of the key that together cover it, lowest first; a key is in one range only.

        The keys are hashes, so each range has about RANGE_ROWS rows. Row groups outside a range are not read.
        """
        if not self._parts:
            return
        bits = (-(-self._rows // RANGE_ROWS) - 1).bit_length()
        width = 2 ** (64 - bits)
        for low in range(0, 2**64, width):
            inside = pl.col("key").is_between(pl.lit(low, pl.UInt64), pl.lit(low + width - 1, pl.UInt64))
            yield pl.scan_parquet(self._parts).filter(inside).collect()

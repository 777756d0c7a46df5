"""Rows keyed by uint64 on disk: an external sort (`Spill`), and sorted memory-mapped columns (`MappedColumns`).

A spill keeps in memory only the part being written, or one range of keys. Mapped columns are searched by bisection; the
operating system caches them as memory allows, shared between processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl

from rag_clip.errors import disk_errors

KEY = "key"
_GROUP_ROWS = 50_000


def write_columns(folder: Path, parts: Iterable[Mapping[str, np.ndarray]], dtypes: Mapping[str, str]) -> int:
    """Write the parts, whose keys ascend throughout, to one file per column; return the number of rows.

    `dtypes` maps the columns, including `key`, to their little-endian types.
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
    """Columns written by `write_columns`, opened for look-ups."""

    def __init__(self, folder: Path, dtypes: Mapping[str, str]) -> None:
        self.folder = folder
        self._columns = {name: _open(folder / name, dtype) for name, dtype in dtypes.items()}

    def __len__(self) -> int:
        return len(self._columns[KEY])

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return for keys, uint64 [n], whether each is present, bool [n], and its row, int64 [n] (0 if absent)."""
        if not len(self):
            return np.zeros(len(keys), bool), np.zeros(len(keys), np.int64)
        rows = np.searchsorted(self._columns[KEY], keys).clip(max=len(self) - 1)
        found = self._columns[KEY][rows] == keys
        return found, np.where(found, rows, 0)

    def values(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return the values of a column at `rows`."""
        return np.asarray(self._columns[name][rows]) if len(self) else np.zeros(len(rows), self._columns[name].dtype)


def _open(path: Path, dtype: str) -> np.ndarray:
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)


class Spill:
    """An external sort in a new folder; every table written has a column `key` and the same other columns."""

    def __init__(self, folder: Path, *, range_rows: int) -> None:
        self._folder, self._range_rows = folder, range_rows
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
        """Yield all rows in consecutive ranges of the key, lowest first; equal keys are in the same range.

        The keys are hashes, hence evenly spread, so each range has about `range_rows` rows. Row groups outside a range
        are not read.
        """
        if not self._parts:
            return
        bits = (-(-self._rows // self._range_rows) - 1).bit_length()
        width = 2 ** (64 - bits)
        for low in range(0, 2**64, width):
            inside = pl.col("key").is_between(pl.lit(low, pl.UInt64), pl.lit(low + width - 1, pl.UInt64))
            yield pl.scan_parquet(self._parts).filter(inside).collect()

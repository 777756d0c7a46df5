"""Sorted uint64 keys with values beside them, in files that are mapped into memory instead of loaded.

A look-up is a binary search; the operating system keeps of the files what it has room for, and processes share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

KEY = "key"


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

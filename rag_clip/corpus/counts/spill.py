"""Rows keyed by uint64, sorted into Parquet parts on disk and read back in ranges of the key.

However many rows there are, memory holds the part being written or one range of the keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from rag_clip.errors import disk_errors

RANGE_ROWS = 2_000_000
_GROUP_ROWS = 50_000


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

"""The origin of a row as one number that sorts like (file, row)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from rag_clip.corpus.steps import column_of
from rag_clip.display import counted

_ROW_BITS = np.uint64(40)
_ROW_MASK = np.uint64(2**40 - 1)


class Places:
    """The files of a corpus, ranked by name; the place of a row is the file's rank * 2**40 + the row number."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = tuple(sorted(files))
        self._ranks = {name: rank for rank, name in enumerate(self.files)}

    def of(self, records: pa.Table) -> np.ndarray:
        """Return the places uint64 [n] of records with columns `file` and `row`.

        Raises ValueError for a missing column and for a file that was not counted.
        """
        names, rows = file_and_row(records)
        unknown = sorted(set(names.unique().to_list()) - set(self.files))
        if unknown:
            raise ValueError(
                f"{unknown[0]!r} is not among the {counted(len(self.files), 'file')} counted; count the corpus again"
            )
        return to_place(names.replace_strict(self._ranks, return_dtype=pl.UInt64).to_numpy(), rows)

    def ranks(self, names: Sequence[str]) -> np.ndarray:
        """Return the rank of each file name, uint64 [n]."""
        return np.array([self._ranks[name] for name in names], np.uint64)

    @staticmethod
    def split(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rank [n] and the row [n] of places."""
        return places >> _ROW_BITS, places & _ROW_MASK


def to_place(ranks: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Join ranks uint64 [n] and rows uint64 [n]."""
    places: np.ndarray = (ranks << _ROW_BITS) | rows
    return places


def file_and_row(records: pa.Table) -> tuple[pl.Series, np.ndarray]:
    """Return the file [n] and the row uint64 [n] of records; raises ValueError where a column is missing."""
    why = "the first of equal captions is the one with the smallest file and row"
    names = column_of(records, "file", why).cast(pl.String).fill_null("")
    return names, column_of(records, "row", why).cast(pl.UInt64).to_numpy()


def image_names(records: pa.Table) -> pl.Series:
    """Return the identity of each record's image: its `sha256`, else its `url`, else null."""
    names = pl.Series([None] * records.num_rows, dtype=pl.String)
    for column in ("url", "sha256"):
        if column in records.column_names:
            values = pl.Series(records.column(column)).cast(pl.String)
            names = pl.select(pl.coalesce(pl.when(values != "").then(values), names)).to_series()
    return names

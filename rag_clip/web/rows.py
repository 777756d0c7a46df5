"""Pages of rows of large Parquet files, and the images in them, read row group by row group and never whole."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rag_clip.files.locations import is_remote
from rag_clip.images.items import read_image
from rag_clip.images.listing import is_image
from rag_clip.images.opening import open_image_files
from rag_clip.images.rows import ImageFile, read_items
from rag_clip.models.decode import ImageError, decode_image
from rag_clip.pipelines.predictions import recorded_columns

SIDE = 256
MOST_SCANNED = 2_000_000


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows of predictions are shown: those of a class, with a score below `below`, with a label that refinement
    changed, without a label or with an error (`failed`).
    """

    label: str = ""
    below: float = 1.01
    changed: bool = False
    unlabelled: bool = False
    failed: bool = False

    @property
    def everything(self) -> bool:
        """Whether it lets every row pass."""
        return self == Filter()


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of predictions: their numbers and values, and the row to go on from, or None at the end."""

    rows: list[dict[str, Any]]
    next: int | None
    total: int


@dataclass(frozen=True, slots=True)
class Predictions:
    """A predictions file: the names of its columns by what they mean, and its facts (the key rag_clip)."""

    path: Path
    columns: Mapping[str, str]
    facts: Mapping[str, Any]
    total: int
    starts: tuple[int, ...]

    def page(self, *, start: int = 0, limit: int = 48, only: Filter = Filter()) -> Rows:
        """Return up to `limit` rows from row `start` on; raises ValueError for numbers out of range."""
        if start < 0 or not 1 <= limit <= 1000:
            raise ValueError(f"start is {start} and limit {limit}; give a start of at least 0, and 1 to 1000 rows")
        if only.changed and "label_alone" not in self.columns:
            raise ValueError("these predictions were not refined, so no label was changed; classify with --refine")
        found: list[dict[str, Any]] = []
        group = int(np.searchsorted(self.starts, start, side="right")) - 1
        scanned = 0
        with pq.ParquetFile(self.path) as file:
            while 0 <= group < file.num_row_groups and scanned < MOST_SCANNED:
                table = file.read_row_group(group, columns=list(self.columns.values()))
                first = self.starts[group]
                keep = self._keep(table, only)
                numbers = np.flatnonzero(keep)
                numbers = numbers[numbers >= start - first][: limit + 1 - len(found)]
                values = table.take(pa.array(numbers)).rename_columns(list(self.columns)).to_pylist()
                found += [{"row": first + number, **row} for number, row in zip(numbers.tolist(), values, strict=True)]
                scanned += len(table)
                group += 1
                if len(found) > limit:
                    return Rows(found[:limit], found[limit]["row"], self.total)
        more = self.starts[group] if group < len(self.starts) else None
        return Rows(found, more, self.total)

    def row(self, number: int) -> dict[str, Any]:
        """Return one row; raises ValueError if there is none."""
        if not 0 <= number < self.total:
            raise ValueError(f"{self.path.name} has no row {number}; its {self.total} rows count from 0")
        return self.page(start=number, limit=1).rows[0]

    def _keep(self, table: pa.Table, only: Filter) -> np.ndarray:
        keep = np.ones(len(table), bool)
        if only.everything:
            return keep
        label = table[self.columns["label"]]
        failed = table[self.columns["error"]].is_valid().to_numpy()
        if only.label:
            keep &= pc.fill_null(pc.equal(label, only.label), False).to_numpy()
        if only.below <= 1:
            keep &= pc.fill_null(pc.less(table[self.columns["score"]], only.below), False).to_numpy()
        if only.changed:
            keep &= pc.fill_null(pc.not_equal(label, table[self.columns["label_alone"]]), False).to_numpy()
        if only.unlabelled:
            keep &= ~label.is_valid().to_numpy() & ~failed
        if only.failed:
            keep &= failed
        return keep


@lru_cache(maxsize=32)
def _open(path: Path, _changed: int) -> Predictions:
    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        try:
            facts, columns = recorded_columns(file.schema_arrow)
        except ValueError as error:
            raise ValueError(f"{path.name} {error}") from None
        return Predictions(path, columns, facts, sum(sizes), tuple(np.cumsum([0, *sizes[:-1]]).tolist()))


def predictions_of(path: Path) -> Predictions:
    """Open a predictions file, or return it as opened before; raises ValueError for any other file."""
    return _open(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=32)
def _counts(path: Path, _changed: int) -> dict[str, int]:
    opened = predictions_of(path)
    labels = pq.read_table(path, columns=[opened.columns["label"]])[0]
    counted = pc.value_counts(pc.drop_null(labels).combine_chunks())
    pairs = zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True)
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def counts_of(path: Path) -> dict[str, int]:
    """Return how often each class was predicted, the most frequent first; counted once per file."""
    return _counts(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=32)
def _images(path: Path, _changed: int) -> list[ImageFile]:
    return open_image_files(path, image_column="image")


def image_of(path: Path, row: int, *, root: Path) -> bytes:
    """Return the bytes of the image in a row of a file of images or predictions, or of an image file.

    Raises ImageError for an image that is missing, lies outside `root` or elsewhere on the network; ValueError for a
    row that is not there, and a file without images.
    """
    if is_image(path.name):
        return read_image(str(path))
    wanted = row
    for file in _images(path, path.stat().st_mtime_ns):
        if 0 <= wanted < file.rows:
            item = next(read_items(file, [1], start=wanted))[0]
            if isinstance(item, str | Path) and (is_remote(item) or not Path(item).resolve().is_relative_to(root)):
                raise ImageError("the image lies outside the served folder; serve a folder that holds it")
            return read_image(item)
        wanted -= file.rows
    raise ValueError(f"{path.name} has no row {row}")


def thumbnail(data: bytes, side: int = SIDE) -> bytes:
    """Return a picture with sides of at most `side` pixels as a JPEG file; raises ImageError."""
    shown = decode_image(data, least_side=side)
    shown.thumbnail((side, side))
    stream = io.BytesIO()
    shown.save(stream, "JPEG", quality=85)
    return stream.getvalue()

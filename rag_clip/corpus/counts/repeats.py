"""Rows of a corpus that share a key, found in bounded memory: the first pass for `duplicates` and similar rules.

The pass spills (key, file and row, image) to disk, 24 bytes per key, sorted in parts, and reads it back one range of
keys at a time. If images are named, (image, key) is spilled a second time, sorted by image. The results are sorted
and memory-mapped, never loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from rag_clip.corpus.counts.on_disk import Spill, write_columns
from rag_clip.corpus.counts.positions import Places, file_and_row, image_names, to_place
from rag_clip.corpus.counts.tokens import keys_of

REPEATS = {"key": "<u8", "first": "<u8", "images": "<u4"}
PLACES = {"key": "<u8"}
TEXTS = {"key": "<u8", "texts": "<u4"}
TEXTS_FOLDER = "texts"
# Odd, so that multiplication modulo 2**64 is one to one; large, so that adjacent places spread over all keys.
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


class RepeatFinder:
    """Collects the keys of rows; `write_repeats` or `write_later` then writes those that occur more than once."""

    def __init__(self, folder: Path, *, rows: int) -> None:
        self._folder, self._limit = folder, rows
        self._spill = Spill(folder / "keys", range_rows=rows)
        self._ordinals: dict[str, int] = {}
        self._waiting: list[pl.DataFrame] = []
        self._rows = 0
        self._images_named = False

    @property
    def files(self) -> tuple[str, ...]:
        """The files seen so far."""
        return tuple(self._ordinals)

    def add(self, records: pa.Table, keys: np.ndarray) -> None:
        """Add keys, uint64 [n, b], of records with columns `file` and `row`; rows that share any key repeat each other.

        Each row is a separate image unless a column `sha256` or `url` names its image.
        """
        names, rows = file_and_row(records)
        for name in names.unique().to_list():
            self._ordinals.setdefault(name, len(self._ordinals))
        ordinals = names.replace_strict(self._ordinals, return_dtype=pl.UInt64).to_numpy()
        place = to_place(ordinals, rows)
        images = image_names(records)
        self._images_named |= images.null_count() < len(images)
        named = np.where(images.is_null().to_numpy(), place, keys_of(images.fill_null("").to_list()))
        columns = {"place": place, "image": named}
        repeated = {name: np.repeat(values, keys.shape[1]) for name, values in columns.items()}
        self._waiting.append(pl.DataFrame({"key": keys.reshape(-1), **repeated}))
        self._rows += keys.size
        if self._rows >= max(1, self._limit // 4):
            self._flush()

    def write_repeats(self, folder: Path) -> int:
        """Write each repeated key with its first place and its number of images; return the number of such keys.

        `folder`/texts gets the images with several keys, with the number of keys of each.
        """
        summaries = (
            group.group_by("key").agg(first=pl.col("place").min(), images=pl.col("image").n_unique()).sort("key")
            for group in self._repeated()
        )
        repeated = write_columns(folder, (_arrays(part) for part in summaries), REPEATS)
        self._write_texts(folder / TEXTS_FOLDER)
        return repeated

    def write_later(self, folder: Path) -> int:
        """Write the places, mapped by `spread`, that share a key with an earlier place; return their number."""
        later = Spill(self._folder / "later", range_rows=self._limit)
        for group in self._repeated():
            places = group.filter(pl.col("place") > pl.col("place").min().over("key"))["place"].unique()
            later.write(pl.DataFrame({"key": spread(places.to_numpy())}))
        parts = (part.select(pl.col("key").unique().sort()) for part in later.ranges())
        return write_columns(folder, (_arrays(part) for part in parts), PLACES)

    def _write_texts(self, folder: Path) -> None:
        pairs = Spill(self._folder / "pairs", range_rows=self._limit)
        for part in self._spill.ranges() if self._images_named else ():
            named = part.filter(pl.col("image") != pl.col("place"))
            pairs.write(named.select(key="image", text="key").unique())
        summaries = (
            part.group_by("key").agg(texts=pl.col("text").n_unique()).filter(pl.col("texts") > 1).sort("key")
            for part in pairs.ranges()
        )
        write_columns(folder, (_arrays(part) for part in summaries), TEXTS)

    def _repeated(self) -> Iterator[pl.DataFrame]:
        """Yield the rows of repeated keys, one range of keys at a time, with places by rank of the file name."""
        self._flush()
        ranks = Places(self.files).ranks(self.files)
        for part in self._spill.ranges():
            group = part.filter(pl.col("key").is_duplicated())
            ordinals, rows = Places.split(group["place"].to_numpy())
            yield group.with_columns(place=pl.Series(to_place(ranks[ordinals], rows), dtype=pl.UInt64))

    def _flush(self) -> None:
        if self._waiting:
            self._spill.write(pl.concat(self._waiting))
        self._waiting, self._rows = [], 0


def spread(places: np.ndarray) -> np.ndarray:
    """Map places uint64 [n] one to one to keys that are spread evenly."""
    return places * _SPREAD


def _arrays(part: pl.DataFrame) -> dict[str, np.ndarray]:
    return {name: part[name].to_numpy() for name in part.columns}

"""A cache of image features, in shards: an interrupted run continues from it, and no image is decoded twice.

The path contains the encoder's key and the identity of the image file, so features of another encoder or of an older
version of the file are never used. A shard appears whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from rag_clip.data import Fingerprint
from rag_clip.files.identity import FileIdentity, hash_facts
from rag_clip.files.shards import RowShards, Shards

SHARD_ROWS = 1024


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRows:
    """Features of consecutive images: `pooled` float32 [n, d], and the error of each row, None if the image is good.

    `others` are features [n, d'] of the same images from additional encoders, by encoder name. Rows that an encoder
    failed on are zero.
    """

    pooled: np.ndarray
    errors: tuple[str | None, ...]
    others: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def good(self) -> np.ndarray:
        """Row numbers without an error, int64."""
        return np.flatnonzero([error is None for error in self.errors])

    def cut(self, start: int, stop: int) -> FeatureRows:
        """Return the rows from `start` to `stop`."""
        others = {name: other[start:stop] for name, other in self.others.items()}
        return FeatureRows(self.pooled[start:stop], self.errors[start:stop], others)

    def to_table(self) -> pa.Table:
        """Return the columns of a shard: `vector`, null for images with an error, and `error`."""
        failed = pa.array([error is not None for error in self.errors], pa.bool_())
        values = pa.array(np.ascontiguousarray(self.pooled, dtype=np.float32).reshape(-1))
        vectors = pa.FixedSizeListArray.from_arrays(values, self.pooled.shape[1], mask=failed)
        return pa.table({"vector": vectors, "error": pa.array(self.errors, pa.string())})


@dataclass(frozen=True, slots=True)
class FeatureCache:
    """The features [rows, dim] of one image file, in shards of its rows."""

    shards: RowShards
    dim: int

    @property
    def folder(self) -> Path:
        """The folder of the shards."""
        return self.shards.folder

    def spans(self) -> Iterator[tuple[int, int]]:
        """Return (first row, end) of each shard, in order."""
        return self.shards.spans()

    def missing(self) -> list[tuple[int, int]]:
        """Return the ranges of rows (first, end) without a usable shard; adjacent ones are joined."""
        return self.shards.missing()

    def write(self, start: int, features: FeatureRows, *, settled: bool = True) -> None:
        """Store the shard that begins at row `start`; see `RowShards.write`."""
        self.shards.write(start, features.to_table(), settled=settled)

    def read(self, start: int) -> FeatureRows:
        """Load the shard that begins at row `start`; raises OSError, naming the file, if it is missing or damaged."""
        table = self.shards.read(start)
        vectors = table["vector"].combine_chunks()
        pooled = np.zeros((len(table), self.dim), dtype=np.float32)  # [n, d]
        values = vectors.drop_null().flatten().to_numpy(zero_copy_only=False)  # [good * d]
        pooled[vectors.is_valid().to_numpy(zero_copy_only=False)] = values.reshape(-1, self.dim)
        return FeatureRows(pooled, tuple(table["error"].to_pylist()))

    def count_failed(self) -> int:
        """Return the number of images with an error; every shard must exist."""
        shards = (self.read(start) for start, _ in self.spans())
        return sum(len(shard.errors) - len(shard.good) for shard in shards)


def open_features(
    root: str | Path,
    *,
    encoder: Fingerprint,
    source: FileIdentity,
    column: str,
    rows: int,
    dim: int,
    shard_rows: int = SHARD_ROWS,
) -> FeatureCache:
    """Return the cache of the images in one column of a file.

    root: the folder of all caches; this one is `root`/encoder key/file identity.
    encoder: the encoder of the features.
    source: the image file.
    column, rows: the image column, and its number of rows.
    dim: width d of the features.
    shard_rows: the number of rows per shard.

    If the column holds paths, the image files themselves are assumed not to change.
    """
    key = hash_facts([*source.facts, column, rows, shard_rows])
    return feature_cache(Path(root) / encoder.image_part.key / key, rows=rows, dim=dim, shard_rows=shard_rows)


def feature_cache(folder: Path, *, rows: int, dim: int, shard_rows: int = SHARD_ROWS) -> FeatureCache:
    """Return the cache of `rows` features in a folder, `shard_rows` to a shard."""
    schema = pa.schema({"vector": pa.list_(pa.float32(), dim), "error": pa.string()})
    options = {"compression": "none", "use_dictionary": ["error"]}
    return FeatureCache(RowShards(Shards(folder, "features"), rows, shard_rows, schema, options), dim)

"""A folder of image features, in shards: what an interrupted run continues from, and what spares a second decoding.

Features lie under the encoder's key and the identity of the file they came from, so neither another encoder nor a
changed file ever finds them. A shard appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from rag_clip.data import Fingerprint
from rag_clip.files.sealed import read_sealed, write_sealed

SHARD_ROWS = 1024
_KEY = b"rag_clip"
_DAMAGE = (pa.ArrowException, KeyError, ValueError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRows:
    """Features of consecutive images: `pooled` float32 [n, d], and per row an error, None where the image is good.

    `others` are features [n, d'] of the same images by further encoders. Rows that an encoder failed on are zero in its
    features.
    """

    pooled: np.ndarray
    errors: tuple[str | None, ...]
    others: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def good(self) -> np.ndarray:
        """Row numbers without an error, int64."""
        return np.flatnonzero([error is None for error in self.errors])


@dataclass(frozen=True, slots=True)
class FeatureCache:
    """The shards of one image file: rows [i * shard_rows, (i + 1) * shard_rows) lie in `folder`/i.parquet."""

    folder: Path
    rows: int
    dim: int
    shard_rows: int = SHARD_ROWS

    def spans(self) -> Iterator[tuple[int, int]]:
        """First row and end of each shard, in order."""
        return ((start, min(start + self.shard_rows, self.rows)) for start in range(0, self.rows, self.shard_rows))

    def missing(self) -> list[tuple[int, int]]:
        """Runs of rows (first, end) that no usable shard holds; adjacent missing shards are one run."""
        return missing_runs(self.spans(), self._is_usable)

    def write(self, start: int, features: FeatureRows, *, settled: bool = True) -> None:
        """Store the shard that begins at row `start`, replacing it at once.

        Where not `settled` (an error may pass, such as a file that is not there yet), `missing` lists it again.
        Raises OSError naming the file where it cannot be written; no partial shard stays.
        """
        table = _to_table(features, self.dim).replace_schema_metadata({_KEY: json.dumps({"settled": settled})})
        path = self._path(start)
        try:
            write_sealed(table, path, compression="none", use_dictionary=["error"])
        except OSError as error:
            reason = f"cannot write features to {path} ({error}); make room and run again, finished shards are kept"
            raise OSError(error.errno, reason) from error

    def read(self, start: int) -> FeatureRows:
        """Load the shard that begins at row `start`. Raises OSError naming the file where it is gone or damaged."""
        try:
            return self._load(start)[0]
        except (OSError, *_DAMAGE) as error:
            raise OSError(f"features in {self._path(start)} cannot be read ({error}); run again") from error

    def count_failed(self) -> int:
        """Add up the errors of all shards, all of which must be there."""
        shards = (self.read(start) for start, _ in self.spans())
        return sum(len(shard.errors) - len(shard.good) for shard in shards)

    def _path(self, start: int) -> Path:
        return self.folder / f"{start // self.shard_rows:05d}.parquet"

    def _load(self, start: int) -> tuple[FeatureRows, bool]:
        """Return the features of a shard, and whether its errors are settled."""
        table = read_sealed(self._path(start))
        vectors = table["vector"].combine_chunks()
        pooled = np.zeros((len(table), self.dim), dtype=np.float32)
        values = vectors.drop_null().flatten().to_numpy(zero_copy_only=False)
        pooled[vectors.is_valid().to_numpy(zero_copy_only=False)] = values.reshape(-1, self.dim)
        facts = json.loads(table.schema.metadata[_KEY])
        return FeatureRows(pooled, tuple(table["error"].to_pylist())), bool(facts["settled"])

    def _is_usable(self, start: int, stop: int) -> bool:
        try:
            features, settled = self._load(start)
        except (OSError, *_DAMAGE):
            return False
        return settled and len(features.errors) == stop - start


def missing_runs(spans: Iterable[tuple[int, int]], is_usable: Callable[[int, int], bool]) -> list[tuple[int, int]]:
    """Join the spans (first row, end) that are not usable into runs; adjacent ones are one run."""
    runs: list[tuple[int, int]] = []
    for start, stop in spans:
        if is_usable(start, stop):
            continue
        if runs and runs[-1][1] == start:
            start = runs.pop()[0]
        runs.append((start, stop))
    return runs


def open_features(
    root: str | Path, *, encoder: Fingerprint, source: Sequence[str | int], column: str, rows: int, dim: int
) -> FeatureCache:
    """Return the cache, at `root`/encoder key/file identity, for the `rows` images of `column` in a file.

    `source` says which file, and changes when it does: its place, size and time of change, for one. Images that the
    file only names by path are taken not to change.
    """
    facts = json.dumps([*source, column, rows, SHARD_ROWS])
    identity = hashlib.sha256(facts.encode()).hexdigest()[:16]
    return FeatureCache(Path(root) / encoder.key / identity, rows, dim, SHARD_ROWS)


def _to_table(features: FeatureRows, dim: int) -> pa.Table:
    failed = pa.array([error is not None for error in features.errors], pa.bool_())
    values = pa.array(np.ascontiguousarray(features.pooled, dtype=np.float32).reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(values, dim, mask=failed)
    return pa.table({"vector": vectors, "error": pa.array(features.errors, pa.string())})

"""Shards of embedded image-caption pairs: one Parquet file for each SHARD_ROWS rows of a source file, whole or absent.

They lie under the encoder's key and the identity of the source file, so neither another encoder nor a changed file
ever finds them. Rows that cannot be used are kept with their error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rag_clip.data import Fingerprint
from rag_clip.files.features import missing_runs
from rag_clip.files.locations import Place
from rag_clip.files.reading import read_table
from rag_clip.files.sealed import read_sealed, write_sealed
from rag_clip.images.pairs import PairFile

SHARD_ROWS = 1024
VECTORS = ("vector_image", "vector_text")
_SETTLED, _IMAGES = b"rag_clip_settled", b"rag_clip_images"


def pair_schema(dim: int) -> pa.Schema:
    """Columns of a shard: `key` names the row in its file; id, facts and vectors are null where there is an error."""
    texts = ("key", "id", "text", "source", "url", "sha256", "phash")
    return pa.schema(
        [
            *((name, pa.string()) for name in texts),
            ("width", pa.int32()),
            ("height", pa.int32()),
            *((name, pa.list_(pa.float16(), dim)) for name in VECTORS),
            ("error", pa.string()),
        ]
    )


@dataclass(frozen=True, slots=True)
class PairShards:
    """The shards of the file `path`: its rows [i * SHARD_ROWS, (i + 1) * SHARD_ROWS) lie in `folder`/i.parquet.

    A row of the file is an image; a shard has a row for each of its captions.
    """

    path: Place
    folder: Path
    rows: int
    dim: int

    def spans(self) -> Iterator[tuple[int, int]]:
        """First row and end of each shard, in order."""
        return ((start, min(start + SHARD_ROWS, self.rows)) for start in range(0, self.rows, SHARD_ROWS))

    def missing(self) -> list[tuple[int, int]]:
        """Runs of rows (first, end) that no usable shard holds; adjacent missing shards are one run."""
        return missing_runs(self.spans(), self._is_usable)

    def write(self, start: int, pairs: pa.Table, *, images: int, settled: bool) -> None:
        """Store the shard of `images` from row `start` on; where not `settled` (an error may pass) it is missing again.

        Raises OSError where it cannot be written; no partial shard stays.
        """
        target = self._shard(start)
        compression = {name: "none" if name in VECTORS else "zstd" for name in pairs.column_names}
        try:
            table = pairs.replace_schema_metadata({_SETTLED: json.dumps(settled), _IMAGES: str(images)})
            write_sealed(table, target, compression=compression, use_dictionary=["source", "error"])
        except OSError as error:
            reason = f"cannot write {target} ({error}); make room and run again, finished shards are kept"
            raise OSError(error.errno, reason) from error

    def read(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the shards in order, vectors as float16. Raises OSError where one is gone or damaged."""
        for start, _ in self.spans():
            try:
                yield read_table(self._shard(start), columns)
            except (ValueError, OSError) as error:
                raise OSError(f"{self._shard(start)} cannot be read ({error}); delete it and run again") from error

    def count_pairs(self, runs: Iterable[tuple[int, int]] | None = None) -> int:
        """Add up the pairs of all shards, or of those in `runs` of rows, all of which must be there."""
        starts = [
            start
            for first, end in ([(0, self.rows)] if runs is None else runs)
            for start in range(first, end, SHARD_ROWS)
        ]
        return sum(pq.read_metadata(self._shard(start)).num_rows for start in starts)

    def _shard(self, start: int) -> Path:
        return self.folder / f"{start // SHARD_ROWS:05d}.parquet"

    def _is_usable(self, start: int, stop: int) -> bool:
        try:
            schema = read_sealed(self._shard(start)).schema
            settled, images = json.loads(schema.metadata[_SETTLED]), int(schema.metadata[_IMAGES])
            return bool(settled) and schema.equals(pair_schema(self.dim)) and images == stop - start
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError):
            return False


def open_shards(root: str | Path, file: PairFile, *, encoder: Fingerprint, dim: int, settings: str) -> PairShards:
    """Return the shards of `file` at `root`/encoder key/identity of the file and of the `settings` it is read with."""
    place, *state = file.identity
    facts = json.dumps([place, file.source, *state, settings, file.rows, SHARD_ROWS])
    identity = hashlib.sha256(facts.encode()).hexdigest()[:16]
    return PairShards(file.path, Path(root) / encoder.key / identity, file.rows, dim)


def unit_rows(column: pa.ChunkedArray, dim: int) -> np.ndarray:
    """Return a vector column without nulls as float32 unit rows [n, d]; float16 cost them a little length."""
    values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    rows: np.ndarray = values.reshape(-1, dim).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows

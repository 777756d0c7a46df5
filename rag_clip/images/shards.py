"""Shards of embedded image-caption pairs: a Parquet file for each `shard_rows` rows of a source file, whole or absent.

The path contains the encoder's key and the identity of the source file, so shards of another encoder or of an older
version of the file are never used. Rows that cannot be used are kept with their error, and listed in one file beside
the shards.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rag_clip.data import Fingerprint
from rag_clip.files.atomic import replacing
from rag_clip.files.identity import hash_facts
from rag_clip.files.locations import Place
from rag_clip.files.shards import RowShards, Shards
from rag_clip.images.pairs import PairFile

SHARD_ROWS = 1024
VECTORS = ("vector_image", "vector_text")
FAILURES = "failed.parquet"
_FAILED = ("file", "key", "url", "text", "error")
_QUOTED_OR_NUMBER = re.compile(r"'.*?'|\d+(?:,\d+)*")


def pair_schema(dim: int) -> pa.Schema:
    """Return the columns of a shard: `key` identifies the row in its file; rows with an error have no id or vectors."""
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
    """The embedded pairs of the file `path`, in shards of its rows, which are images; each row of a shard is a pair."""

    path: Place
    shards: RowShards
    dim: int

    @property
    def folder(self) -> Path:
        """The folder of the shards."""
        return self.shards.folder

    def read(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield columns of the shards in order, vectors as float16; raises OSError if one is missing or damaged."""
        for start, _ in self.shards.spans():
            yield self.shards.read_columns(start, columns)

    def count_pairs(self, runs: Iterable[tuple[int, int]] | None = None) -> int:
        """Return the number of pairs in all shards, or in those of the row ranges `runs`; every shard must exist."""
        starts = [
            start
            for first, end in ([(0, self.shards.rows)] if runs is None else runs)
            for start in range(first, end, self.shards.shard_rows)
        ]
        return sum(pq.read_metadata(self.shards.path(start)).num_rows for start in starts)


def open_shards(
    root: str | Path,
    file: PairFile,
    *,
    encoder: Fingerprint,
    dim: int,
    settings: str,
    shard_rows: int = SHARD_ROWS,
) -> PairShards:
    """Return the shards of a file of pairs.

    root: the folder of all shards; these are at `root`/encoder key/hash of the file's identity and `settings`.
    file: the file of pairs.
    encoder: the encoder of the vectors.
    dim: width d of the vectors.
    settings: how the file is read, as text.
    shard_rows: the number of rows of the file per shard.
    """
    identity = file.identity
    key = hash_facts([identity.place, file.source, *identity.state, settings, file.rows, shard_rows])
    schema = pair_schema(dim)
    compression = {name: "none" if name in VECTORS else "zstd" for name in schema.names}
    options = {"compression": compression, "use_dictionary": ["source", "error"]}
    shards = Shards(Path(root) / encoder.key / key, "pairs")
    return PairShards(file.path, RowShards(shards, file.rows, shard_rows, schema, options), dim)


def list_failures(parts: Sequence[PairShards], path: Path) -> Counter[str]:
    """Write the rows that cannot be used to `path`, and return their number per reason, without details of a row."""
    reasons = Counter[str]()
    kind = pa.schema([(name, pa.string()) for name in _FAILED])
    with replacing(path) as partial, pq.ParquetWriter(partial, kind, write_page_checksum=True) as writer:
        for part in parts:
            for table in part.read(_FAILED[1:]):
                failed = table.filter(pc.is_valid(table["error"]))
                file = pa.repeat(pa.scalar(str(part.path)), len(failed))
                columns = [file, *(failed[name] for name in _FAILED[1:])]
                writer.write_table(pa.table(columns, schema=kind))
                reasons.update(_kind(error) for error in failed["error"].to_pylist())
    return reasons


def _kind(error: str) -> str:
    """Return an error without what is specific to its row, and without the advice after it."""
    return re.split(r"; | \(", _QUOTED_OR_NUMBER.sub("...", error))[0]


def unit_rows(column: pa.ChunkedArray, dim: int) -> np.ndarray:
    """Return a vector column without nulls as float32 unit rows [n, d], normalised again after float16 rounding."""
    values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    rows: np.ndarray = values.reshape(-1, dim).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows

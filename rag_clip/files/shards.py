"""The resumable store: Parquet files under keys in a folder, each whole or absent, so that a killed run goes on.

The manifest of a shard says what it is made of. It is the metadata of its table, and one checksum covers rows and
manifest (see sealed.py): `Shards.write` and `Shards.read`. A shard too large to be verified in one piece has its
manifest beside it instead, as KEY.json with the checksum of the Parquet file, and does not exist before that is
written: `Shards.write_described`, `Shards.manifests` and `Shards.read_batches`.

Whoever writes to the folder holds its lock (see lock.py) and first sweeps away what a killed run left.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from rag_clip.files.atomic import replacing
from rag_clip.files.parquet_batches import STREAM_BUFFER
from rag_clip.files.reading import parse_json, read_table
from rag_clip.files.sealed import file_checksum, read_sealed, write_sealed

T = TypeVar("T")
UNKNOWN = -1  # the checksum of a Parquet file whose manifest says none
_MANIFEST = b"rag_clip"
_SETTLED, _IMAGES = b"rag_clip_settled", b"rag_clip_images"  # of pairs, in version 0.1.0
_DAMAGE = (pa.ArrowException, KeyError, ValueError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class Shards:
    """The shards in `folder`; errors say `what` they hold, such as "features"."""

    folder: Path
    what: str

    def path(self, key: str) -> Path:
        """Return the Parquet file of a shard."""
        return self.folder / f"{key}.parquet"

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Raise what hinders writing `path` as an OSError that names it and says what to do."""
        try:
            yield
        except OSError as error:
            reason = f"cannot write {self.what} to {path} ({error}); make room and run again, finished shards are kept"
            raise OSError(error.errno, reason) from error

    def write(self, key: str, table: pa.Table, **options: Any) -> None:
        """Store a shard, whose manifest is the metadata of the table, replacing it at once; `options` are pyarrow's.

        Raises OSError naming the file where it cannot be written; no partial shard stays.
        """
        with self.writing(self.path(key)):
            write_sealed(table, self.path(key), **options)

    def read(self, key: str) -> pa.Table:
        """Load a shard and verify it. Raises OSError naming the file where it is gone or damaged."""
        return self._read(key, None)

    def read_columns(self, key: str, columns: Sequence[str]) -> pa.Table:
        """Load some columns of a shard that was verified before in this run; raises as `read` does."""
        return self._read(key, columns)

    def _read(self, key: str, columns: Sequence[str] | None) -> pa.Table:
        path = self.path(key)
        try:
            return read_sealed(path) if columns is None else read_table(path, columns)
        except (*_DAMAGE, OSError) as error:
            raise self.unreadable(key, error) from error

    def unreadable(self, key: str, reason: object) -> OSError:
        """Return the error of a shard that is gone or damaged."""
        return OSError(f"{self.what} in {self.path(key)} cannot be read ({reason}); run again")

    def write_described(self, key: str, table: pa.Table, manifest: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """Store a shard and then, beside it, its manifest, plain values with a checksum of their own.

        Returns the manifest as written, whose `content` is the checksum of the Parquet file. Raises as `write` does.
        """
        path = self.path(key)
        with self.writing(path):
            with replacing(path) as partial:
                pq.write_table(table, partial, write_page_checksum=True, **options)
            described = {**manifest, "content": file_checksum(path)}
            with replacing(path.with_suffix(".json")) as partial:
                partial.write_text(json.dumps(_seal(described), indent=1, ensure_ascii=False), encoding="utf-8")
        return described

    def manifests(self, parse: Callable[[Any], T]) -> list[T]:
        """Return what `parse` makes of the manifests beside shards, in no order.

        Raises ValueError naming one that is damaged, or that `parse` refuses with a ValueError.
        """
        return [_read_manifest(path, parse) for path in self.folder.glob("*.json")]

    def read_batches(self, key: str, content: int, *, rows: int) -> Iterator[pa.RecordBatch]:
        """Verify a shard against the `content` of its manifest and yield it, `rows` at a time, with bounded memory.

        Raises OSError where the Parquet file is missing or damaged.
        """
        path = self.path(key)
        try:
            if content not in (UNKNOWN, file_checksum(path)):
                raise OSError("its checksum differs")
            with pq.ParquetFile(
                path, pre_buffer=False, buffer_size=STREAM_BUFFER, page_checksum_verification=True
            ) as file:
                yield from file.iter_batches(rows)
        except (pa.ArrowException, OSError) as error:
            raise OSError(
                f"shard {path} cannot be read ({error}); delete {path.with_suffix('.json').name} beside it and embed "
                "again"
            ) from error

    def sweep(self) -> None:
        """Delete what killed runs left half written; only for one that holds the folder alone."""
        for path in list(self.folder.rglob(".*.partial")):
            if path.is_dir():  # counts of a corpus
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class RowShards:
    """The shards made of the `rows` rows of one file: rows [i * shard_rows, (i + 1) * shard_rows) have the key i.

    Their columns are `schema`, written with `options` of pyarrow. A shard need not have as many rows as the file: an
    image with several captions is one row of its file.
    """

    store: Shards
    rows: int
    shard_rows: int
    schema: pa.Schema
    options: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Where the shards lie."""
        return self.store.folder

    def spans(self) -> Iterator[tuple[int, int]]:
        """First row and end of each shard, in order."""
        return ((start, min(start + self.shard_rows, self.rows)) for start in range(0, self.rows, self.shard_rows))

    def missing(self) -> list[tuple[int, int]]:
        """Return the runs of rows (first, end) that no usable shard holds; adjacent missing shards are one run."""
        runs: list[tuple[int, int]] = []
        for start, stop in self.spans():
            if self._is_usable(start, stop):
                continue
            if runs and runs[-1][1] == start:
                start = runs.pop()[0]
            runs.append((start, stop))
        return runs

    def write(self, start: int, table: pa.Table, *, rows: int | None = None, settled: bool = True) -> None:
        """Store the shard made of `rows` rows of the file from row `start` on, by default as many as the table's.

        Where not `settled` (an error may pass, such as a file that is not there yet), `missing` lists it again.
        Raises OSError naming the file where it cannot be written; no partial shard stays.
        """
        manifest = {"settled": settled, "rows": len(table) if rows is None else rows}
        described = table.replace_schema_metadata({_MANIFEST: json.dumps(manifest)})
        self.store.write(self._key(start), described, **self.options)

    def read(self, start: int) -> pa.Table:
        """Load the shard that begins at row `start`. Raises OSError naming the file where it is gone or damaged."""
        return self._read(start)[0]

    def read_columns(self, start: int, columns: Sequence[str]) -> pa.Table:
        """Load some columns of a shard that `missing` has verified in this run; raises as `read` does."""
        return self.store.read_columns(self._key(start), columns)

    def path(self, start: int) -> Path:
        """Return the Parquet file of the shard that begins at row `start`."""
        return self.store.path(self._key(start))

    def _key(self, start: int) -> str:
        return f"{start // self.shard_rows:05d}"

    def _read(self, start: int) -> tuple[pa.Table, tuple[bool, int]]:
        """Return a shard and its manifest."""
        table = self.store.read(self._key(start))
        try:
            manifest = _manifest(table)
        except _DAMAGE as error:
            raise self.store.unreadable(self._key(start), "it has no manifest") from error
        if not table.schema.equals(self.schema):
            raise self.store.unreadable(self._key(start), "its columns are others")
        return table, manifest

    def _is_usable(self, start: int, stop: int) -> bool:
        try:
            settled, rows = self._read(start)[1]
        except OSError:
            return False
        return settled and rows == stop - start


def _read_manifest(path: Path, parse: Callable[[Any], T]) -> T:
    try:
        manifest = parse_json(path.read_bytes())
        if (sealed := manifest.pop("checksum", None)) is not None and _seal(manifest)["checksum"] != sealed:
            raise ValueError("its checksum differs")
        return parse(manifest)
    except (ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} is not the manifest of a shard ({reason}): delete it to embed the shard again"
        ) from None


def _manifest(table: pa.Table) -> tuple[bool, int]:
    """Return whether a shard is settled, and of how many rows of the file it is made."""
    metadata = table.schema.metadata or {}
    if _SETTLED in metadata:
        return bool(json.loads(metadata[_SETTLED])), int(metadata[_IMAGES])
    manifest = json.loads(metadata[_MANIFEST])
    return bool(manifest["settled"]), manifest.get("rows", len(table))  # which features of version 0.1.0 do not say


def _seal(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with the checksum of what it says."""
    return {**manifest, "checksum": zlib.crc32(json.dumps(manifest, sort_keys=True).encode())}

"""The resumable store: Parquet files under keys in a folder, each complete or absent; a killed run can continue.

The manifest of a shard says what it was made from. It is the metadata of the shard's table, and one checksum covers
rows and manifest (see sealed.py): `Shards.write` and `Shards.read`. A shard too large to be verified in memory has its
manifest beside it instead, as KEY.json with the checksum of the Parquet file, and does not exist before that is
written: `Shards.write_described`, `Shards.manifests` and `Shards.read_batches`.

A process that writes to the folder holds its lock (see lock.py), and first deletes what a killed run left.
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
UNKNOWN = -1  # the checksum of a Parquet file whose manifest has none
_MANIFEST = b"rag_clip"
_SETTLED, _IMAGES = b"rag_clip_settled", b"rag_clip_images"  # the manifest of pairs in version 0.1.0
_DAMAGE = (pa.ArrowException, KeyError, ValueError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class Shards:
    """The shards in `folder`; `what` is their content in messages, such as "features"."""

    folder: Path
    what: str

    def path(self, key: str) -> Path:
        """Return the Parquet file of a shard."""
        return self.folder / f"{key}.parquet"

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Re-raise an OSError while `path` is written with its name and what to do."""
        try:
            yield
        except OSError as error:
            reason = f"cannot write {self.what} to {path} ({error}); make room and run again, finished shards are kept"
            raise OSError(error.errno, reason) from error

    def write(self, key: str, table: pa.Table, **options: Any) -> None:
        """Write or replace a shard, whose manifest is the table's metadata; `options` are of `write_table`.

        Raises OSError, naming the file, if it cannot be written; no partial shard remains.
        """
        with self.writing(self.path(key)):
            write_sealed(table, self.path(key), **options)

    def read(self, key: str) -> pa.Table:
        """Load and verify a shard; raises OSError, naming the file, if it is missing or damaged."""
        return self._read(key, None)

    def read_columns(self, key: str, columns: Sequence[str]) -> pa.Table:
        """Load some columns of a shard that this run has verified already; raises as `read` does."""
        return self._read(key, columns)

    def _read(self, key: str, columns: Sequence[str] | None) -> pa.Table:
        path = self.path(key)
        try:
            return read_sealed(path) if columns is None else read_table(path, columns)
        except (*_DAMAGE, OSError) as error:
            raise self.unreadable(key, error) from error

    def unreadable(self, key: str, reason: object) -> OSError:
        """Return the error to raise for a shard that is missing or damaged."""
        return OSError(f"{self.what} in {self.path(key)} cannot be read ({reason}); run again")

    def write_described(self, key: str, table: pa.Table, manifest: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """Write a shard, and then beside it its manifest of plain values, which has its own checksum.

        Returns the manifest as written; its `content` is the checksum of the Parquet file. Raises as `write` does.
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
        """Parse each manifest beside a shard with `parse`, in no order.

        Raises ValueError, naming the file, for a manifest that is damaged or that `parse` refuses with a ValueError.
        """
        return [_read_manifest(path, parse) for path in self.folder.glob("*.json")]

    def read_batches(self, key: str, content: int, *, rows: int) -> Iterator[pa.RecordBatch]:
        """Verify a shard against the `content` of its manifest, and yield it in batches of `rows`, in bounded memory.

        Raises OSError if the Parquet file is missing or damaged.
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
        """Delete unfinished files of killed runs; the caller must hold the folder's lock exclusively."""
        for path in list(self.folder.rglob(".*.partial")):
            if path.is_dir():  # counts of a corpus
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class RowShards:
    """The shards made from one file: shard i is made from its rows [i * shard_rows, (i + 1) * shard_rows).

    store: the folder of the shards.
    rows: the number of rows of the file.
    shard_rows: the number of rows of the file per shard.
    schema: the columns of the shards.
    options: arguments of pyarrow's `write_table`.

    A shard may have more rows than the file: an image with several captions is one row of its file.
    """

    store: Shards
    rows: int
    shard_rows: int
    schema: pa.Schema
    options: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """The folder of the shards."""
        return self.store.folder

    def spans(self) -> Iterator[tuple[int, int]]:
        """Return (first row, end) of each shard, in order."""
        return ((start, min(start + self.shard_rows, self.rows)) for start in range(0, self.rows, self.shard_rows))

    def missing(self) -> list[tuple[int, int]]:
        """Return the ranges of rows (first, end) without a usable shard; adjacent ones are joined."""
        ranges: list[tuple[int, int]] = []
        for start, stop in self.spans():
            if self._is_usable(start, stop):
                continue
            if ranges and ranges[-1][1] == start:
                start = ranges.pop()[0]
            ranges.append((start, stop))
        return ranges

    def write(self, start: int, table: pa.Table, *, rows: int | None = None, settled: bool = True) -> None:
        """Write the shard made from `rows` rows of the file from row `start` on; by default as many as the table has.

        A shard that is not `settled`, because an error in it may be temporary, such as a missing file, is listed again
        by `missing`. Raises OSError, naming the file, if it cannot be written; no partial shard remains.
        """
        manifest = {"settled": settled, "rows": len(table) if rows is None else rows}
        described = table.replace_schema_metadata({_MANIFEST: json.dumps(manifest)})
        self.store.write(self._key(start), described, **self.options)

    def read(self, start: int) -> pa.Table:
        """Load the shard that begins at row `start`; raises OSError, naming the file, if it is missing or damaged."""
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
            raise self.store.unreadable(self._key(start), "its columns differ")
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
        if (recorded := manifest.pop("checksum", None)) is not None and _seal(manifest)["checksum"] != recorded:
            raise ValueError("its checksum differs")
        return parse(manifest)
    except (ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} is not the manifest of a shard ({reason}); delete it to embed the shard again"
        ) from None


def _manifest(table: pa.Table) -> tuple[bool, int]:
    """Return whether a shard is settled, and from how many rows of the file it was made."""
    metadata = table.schema.metadata or {}
    if _SETTLED in metadata:
        return bool(json.loads(metadata[_SETTLED])), int(metadata[_IMAGES])
    manifest = json.loads(metadata[_MANIFEST])
    return bool(manifest["settled"]), manifest.get("rows", len(table))  # features of version 0.1.0 have no "rows"


def _seal(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with the checksum of its other values."""
    return {**manifest, "checksum": zlib.crc32(json.dumps(manifest, sort_keys=True).encode())}

"""The identity of a file and its state, so that results of another file, or of an older version, are never reused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_clip.files.locations import shown

if TYPE_CHECKING:
    import pyarrow as pa

ENTITY_KEYS = ("ETag", "etag", "e_tag", "md5Hash", "crc32c", "generation")
TIME_KEYS = ("mtime", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """A file or folder at present: its `place`, without secrets, and a `state` that changes with its content."""

    place: str
    state: tuple[str | int, ...]

    @property
    def facts(self) -> tuple[str | int, ...]:
        """Place and state; keys are hashes of these (see `hash_facts`)."""
        return (self.place, *self.state)

    @property
    def digest(self) -> str:
        """Thirty-two hexadecimal digits of place and state; manifests of captions identify a file by them."""
        return hashlib.sha256(f"{self.place}\n{_words(self.state)}".encode()).hexdigest()[:32]

    def __str__(self) -> str:
        return _words(self.facts)

    def first_rows(self, rows: int) -> FileIdentity:
        """Return the identity of the file's first `rows` rows."""
        return replace(self, state=(*self.state, f"first {rows} rows"))


def identify(path: str | Path) -> FileIdentity:
    """Return the identity of a local file: its resolved path, size in bytes and modification time in nanoseconds.

    Raises FileNotFoundError.
    """
    place = Path(path).resolve()
    return FileIdentity(str(place), _state(place))


def identify_remote(url: str, information: Mapping[str, Any]) -> FileIdentity:
    """Return the identity of a file at an fsspec URL, from the `information` that its file system gives."""
    return FileIdentity(shown(url), (remote_state(information),))


def file_states(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the names with the states of their files in a folder as text; '' for a missing file."""
    for name in names:
        try:
            yield name, _words(_state(folder / name))
        except OSError:
            yield name, ""


def remote_state(information: Mapping[str, Any]) -> str:
    """Return the part of fsspec's `information` that changes with a file: its size, and its ETag, hash or time."""
    entity = [str(information[key]) for key in ENTITY_KEYS if information.get(key)]
    changed = [str(information[key]) for key in TIME_KEYS if information.get(key)]
    return " ".join([str(information.get("size") or 0), *(entity or changed)])


def hash_facts(facts: object, *, digits: int = 16) -> str:
    """Return the first `digits` hexadecimal digits of the SHA-256 of plain values, a key for results made from them."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:digits]


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def digest_table(table: pa.Table) -> str:
    """Return the SHA-256 of the values of a table, independent of how they are divided into chunks."""
    digest = hashlib.sha256()
    for batch in table.combine_chunks().to_batches():
        digest.update(batch.serialize())
    return digest.hexdigest()


def _words(state: Iterable[str | int]) -> str:
    return " ".join(map(str, state))

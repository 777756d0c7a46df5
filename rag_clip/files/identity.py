"""The identity of a file: which one, in which state; what was made of another is never taken for what is made of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rag_clip.files.locations import shown

ENTITY_KEYS = ("ETag", "etag", "e_tag", "md5Hash", "crc32c", "generation")
TIME_KEYS = ("mtime", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """A file or folder as it is now: its `place`, without secrets, and a `state` that changes when its content does."""

    place: str
    state: tuple[str | int, ...]

    @property
    def facts(self) -> tuple[str | int, ...]:
        """Place and state, of which keys are made (see `hash_facts`)."""
        return (self.place, *self.state)

    @property
    def digest(self) -> str:
        """Thirty-two hexadecimal digits over place and state, by which manifests of captions name a file."""
        return hashlib.sha256(f"{self.place}\n{_words(self.state)}".encode()).hexdigest()[:32]

    def __str__(self) -> str:
        return _words(self.facts)

    def first_rows(self, rows: int) -> FileIdentity:
        """Return the identity of the first `rows` rows of the file."""
        return replace(self, state=(*self.state, f"first {rows} rows"))


def identify(path: str | Path) -> FileIdentity:
    """Return the identity of a file of this machine: resolved place, bytes, nanoseconds of its last change.

    Raises FileNotFoundError.
    """
    place = Path(path).resolve()
    return FileIdentity(str(place), _state(place))


def identify_remote(url: str, information: Mapping[str, Any]) -> FileIdentity:
    """Return the identity of a file at an fsspec URL, of what its file system tells of it."""
    return FileIdentity(shown(url), (remote_state(information),))


def file_states(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield files of a folder with their states as words, empty where a file is gone."""
    for name in names:
        try:
            yield name, _words(_state(folder / name))
        except OSError:
            yield name, ""


def remote_state(information: Mapping[str, Any]) -> str:
    """Return what changes when a remote file does, of what fsspec tells of it."""
    entity = [str(information[key]) for key in ENTITY_KEYS if information.get(key)]
    changed = [str(information[key]) for key in TIME_KEYS if information.get(key)]
    return " ".join([str(information.get("size") or 0), *(entity or changed)])


def hash_facts(facts: object, *, digits: int = 16) -> str:
    """Return hexadecimal digits that name plain values: what is made of them lies under this key."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:digits]


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _words(state: Iterable[str | int]) -> str:
    return " ".join(map(str, state))

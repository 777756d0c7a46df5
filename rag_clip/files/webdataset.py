"""Read webdataset tars as img2dataset writes them, KEY.txt, KEY.json and KEY.jpg side by side: consecutive samples.

A tar is read forwards, from any stream, and nothing is ever unpacked to disk. Memory holds one sample.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import IO

MAX_TEXT_BYTES = 1 << 20
TEXTS = (".txt", ".json")


class DamagedTarError(OSError):
    """A tar has no valid header where one must be, or no end."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member that is no folder: `size` bytes from `offset` on, `regular` (no link or device), perhaps `sparse`.

    `content` is that of a text, where texts are asked for and it has at most 1 MiB.
    """

    name: str
    ending: str
    offset: int
    size: int
    regular: bool
    sparse: bool
    content: bytes | None = None

    @property
    def is_text(self) -> bool:
        """Whether the name ends as that of a caption or of facts."""
        return self.name.lower().endswith(TEXTS)

    @property
    def leads_out(self) -> bool:
        """Whether the name is absolute or climbs out with `..`, on any system."""
        return self.name.startswith(("/", "\\")) or ".." in self.name.replace("\\", "/").split("/")


@dataclass(slots=True)
class Sample:
    """Consecutive members of one key; not `whole` where damage comes right after them."""

    key: str
    members: list[Member] = field(default_factory=list)
    whole: bool = True


def read_samples(stream: IO[bytes], *, texts: bool) -> Iterator[Sample]:
    """Yield the samples of an uncompressed tar, with the contents of `texts` if they are asked for.

    Raises tarfile.ReadError for what is no tar, and DamagedTarError after the samples before the damage.
    """
    sample: Sample | None = None
    try:
        for member in _members(stream, texts=texts):
            key = sample_key(member.name)[0]
            if sample is None or sample.key != key:
                if sample is not None:
                    yield sample
                sample = Sample(key)
            sample.members.append(member)
    except DamagedTarError:
        if sample is not None:
            sample.whole = False
            yield sample
        raise
    if sample is not None:
        yield sample


def sample_key(name: str) -> tuple[str, str]:
    """Cut the name of a member into the key of its sample and its ending, as webdataset: at the first dot."""
    folder, _, last = name.rpartition("/")
    stem, _, ending = last.partition(".")
    return f"{folder}/{stem}" if folder else stem, ending.lower()


def dotted_names(key: str, endings: Iterable[str]) -> list[str]:
    """Return the names that a sample whose endings all have dots would have up to the last dot; [] for another."""
    endings = list(endings)
    if not all("." in ending for ending in endings):
        return []
    return list(dict.fromkeys(f"{key}.{ending.rpartition('.')[0]}" for ending in endings))


def _members(stream: IO[bytes], *, texts: bool) -> Iterator[Member]:
    forward = _Forward(stream)
    with tarfile.open(fileobj=forward, mode="r:") as tar:  # type: ignore[call-overload]
        found = tar.next()
        while found is not None:
            if not found.isdir():
                member = Member(
                    found.name,
                    sample_key(found.name)[1],
                    found.offset_data,
                    found.size,
                    regular=found.isreg(),
                    sparse=found.issparse(),
                )
                if texts and member.regular and member.is_text and member.size <= MAX_TEXT_BYTES:
                    content = tar.extractfile(found)
                    member = replace(member, content=content.read() if content else None)
                yield member
            tar.members.clear()
            found = _next_member(tar)


def _next_member(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    """Read the next header. TarFile.next() would take damage in the middle for the end of the archive."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    try:
        return tarfile.TarInfo.fromtarfile(tar)
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return None
    except tarfile.HeaderError as error:
        raise DamagedTarError(f"no valid header at byte {tar.offset} ({error})") from None


class _Forward:
    """A stream that can be sought forwards, and hands out no more at once than a header or a text may hold."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        if self._stream.seekable():
            self._position = self._stream.seek(position)
        while self._position < position and self.read(min(MAX_TEXT_BYTES, position - self._position)):
            pass
        return self._position

    def read(self, size: int) -> bytes:
        if size > 2 * MAX_TEXT_BYTES:
            raise DamagedTarError(f"a header at byte {self._position} claims {size} bytes")
        data = self._stream.read(size)
        self._position += len(data)
        return data

"""Read webdataset tars as img2dataset writes them: consecutive members KEY.txt, KEY.json and KEY.jpg are one sample.

A tar is read forwards from any stream, and nothing is unpacked to disk. One sample at a time is in memory.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import IO

MAX_TEXT_BYTES = 1 << 20
TEXTS = (".txt", ".json")


class DamagedTarError(OSError):
    """A tar lacks a valid header where one must be, or its end."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a tar that is not a folder.

    name: the member's path.
    ending: what follows the first dot of its file name, lower case.
    offset, size: the position of its content in the tar, and its length, in bytes.
    regular: whether it is a file, not a link or device.
    sparse: whether it is a sparse file.
    content: of a text of at most 1 MiB, if texts are asked for; else None.
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
        """Whether the name ends with .txt or .json."""
        return self.name.lower().endswith(TEXTS)

    @property
    def leads_out(self) -> bool:
        """Whether the name is absolute or contains `..`, on any operating system."""
        return self.name.startswith(("/", "\\")) or ".." in self.name.replace("\\", "/").split("/")


@dataclass(slots=True)
class Sample:
    """Consecutive members with the same key; not `whole` if the tar is damaged right after them."""

    key: str
    members: list[Member] = field(default_factory=list)
    whole: bool = True


def read_samples(stream: IO[bytes], *, texts: bool) -> Iterator[Sample]:
    """Yield the samples of an uncompressed tar; with `texts`, .txt and .json members have their content.

    Raises tarfile.ReadError if the stream is not a tar, and DamagedTarError after the samples before the damage.
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
    """Split a member's name at the first dot, as webdataset does, into its sample's key and its ending."""
    folder, _, last = name.rpartition("/")
    stem, _, ending = last.partition(".")
    return f"{folder}/{stem}" if folder else stem, ending.lower()


def dotted_names(key: str, endings: Iterable[str]) -> list[str]:
    """Return the names up to the last dot, if all endings of a sample contain a dot; else []."""
    endings = list(endings)
    if not all("." in ending for ending in endings):
        return []
    return list(dict.fromkeys(f"{key}.{ending.rpartition('.')[0]}" for ending in endings))


def _members(stream: IO[bytes], *, texts: bool) -> Iterator[Member]:
    forward = _Forward(stream)
    with tarfile.open(fileobj=forward, mode="r:") as tar:  # type: ignore[call-overload]
        header = tar.next()
        while header is not None:
            if not header.isdir():
                member = Member(
                    header.name,
                    sample_key(header.name)[1],
                    header.offset_data,
                    header.size,
                    regular=header.isreg(),
                    sparse=header.issparse(),
                )
                if texts and member.regular and member.is_text and member.size <= MAX_TEXT_BYTES:
                    content = tar.extractfile(header)
                    member = replace(member, content=content.read() if content else None)
                yield member
            tar.members.clear()  # TarFile would keep the headers of all members in memory
            header = _next_header(tar)


def _next_header(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    """Read the next header; TarFile.next() would mistake damage in the middle for the end of the archive."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    try:
        return tarfile.TarInfo.fromtarfile(tar)
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return None
    except tarfile.HeaderError as error:
        raise DamagedTarError(f"no valid header at byte {tar.offset} ({error})") from None


class _Forward:
    """A stream that can seek forwards, and refuses reads larger than any header or text may be."""

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

"""Read webdataset tars as img2dataset writes them: KEY.txt, KEY.json and KEY.jpg side by side, a sample a row.

Nothing is ever unpacked to disk. Images are passed over; the fields of KEY.json and the text of KEY.txt (as column
`txt`) are the columns of a row.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from rag_clip.captions.sources.formats import MAX_LINE_BYTES, OVERSIZED, Row, parse_json
from rag_clip.captions.sources.names import dotted_names, sample_key

UNSAFE_NAME = "unsafe_name"
DOTTED_NAME = "dotted_name"
IMAGES = {"jpg", "jpeg", "png", "webp"}


def tar_rows(stream: BinaryIO) -> Iterator[Row]:
    """Yield a row per sample: consecutive members of one key, the name up to the first dot after its folder.

    A sample whose name is absolute or climbs out with `..` becomes the reason `unsafe_name`, and each of those that one
    key would join, since all of their names have further dots, the reason `dotted_name`; links and devices are passed
    over. Raises OSError or tarfile.TarError where the archive is damaged or has no end.
    """
    key, endings = "", dict[str, None]()
    row: Row | None = None
    for member, content in _members(stream):
        found, ending = sample_key(member.name)
        if row is None or found != key:
            yield from _finished(key, row, endings)
            key, row, endings = found, {}, {}
        endings[ending] = None
        row = _with_member(row, member.name, ending, content)
    yield from _finished(key, row, endings)


def _finished(key: str, row: Row | None, endings: Iterable[str]) -> list[Row]:
    if isinstance(row, dict) and (names := dotted_names(key, endings)):
        return [DOTTED_NAME] * len(names)
    return [] if row is None else [row]


def _with_member(row: Row, name: str, extension: str, content: bytes | str | None) -> Row:
    if isinstance(row, str):
        return row
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
        return UNSAFE_NAME
    if isinstance(content, str):
        return content
    if extension == "json" and content is not None:
        fields = parse_json(content)
        return fields if isinstance(fields, str) else {**fields, **row}
    return {**row, extension: b"" if extension in IMAGES else content}


def _members(stream: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, bytes | str | None]]:
    """Yield regular members with their content: bytes of texts, None of others, a reason where it is too long."""
    forward = _Forward(stream)
    with tarfile.open(fileobj=forward, mode="r:") as tar:  # type: ignore[call-overload]
        member = tar.next()
        while member is not None:
            if member.isreg():
                yield member, _content(tar, member)
            tar.members.clear()
            member = _next_member(tar)


def _next_member(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    """Read the next header. TarFile.next() would take damage in the middle for the end of the archive."""
    tar.fileobj.seek(tar.offset)
    try:
        return tarfile.TarInfo.fromtarfile(tar)
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return None
    except tarfile.HeaderError as error:
        raise OSError(f"no valid header at byte {tar.offset} ({error})") from None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | str | None:
    if not member.name.lower().endswith((".txt", ".json")):
        return None
    if member.size > MAX_LINE_BYTES:
        return OVERSIZED
    file = tar.extractfile(member)
    return file.read() if file else None


class _Forward:
    """A stream that can be sought forwards, and hands out no more at once than a header or a text may hold."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        if self._stream.seekable():
            self._position = self._stream.seek(position)
        while self._position < position and self.read(min(MAX_LINE_BYTES, position - self._position)):
            pass
        return self._position

    def read(self, size: int) -> bytes:
        if size > 2 * MAX_LINE_BYTES:
            raise OSError(f"a header at byte {self._position} claims {size} bytes")
        data = self._stream.read(size)
        self._position += len(data)
        return data

"""The image of a row: bytes, base64, the path of a file, or an error. Decode workers import this, without pyarrow."""

from __future__ import annotations

import base64
import binascii
import os
import re
from pathlib import Path

from rag_clip.files.locations import Place, below, is_remote
from rag_clip.files.regular import read_regular
from rag_clip.models.decode import ImageError

SHOWN = 100
Item = bytes | str | ImageError | None
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]{40,}=*\s*")
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP", b"P6", b"P5")


def locate(name: str, root: Place, *, confined: bool) -> Item:
    """Return the image that a text refers to: the bytes that it encodes as base64, or the path of a file.

    A relative name starts at `root`. Returns an ImageError if `confined` and the file, with links resolved, lies
    outside `root`; and for a web address, because nothing is downloaded.
    """
    embedded = embedded_image(name)
    if embedded is not None:
        return embedded
    if is_remote(name) and (confined or name.startswith(("http://", "https://"))):
        return ImageError(f"the image {name[:SHOWN]!r} is a URL, which is not fetched; download it first")
    if is_remote(str(root)) or is_remote(name):
        if not is_remote(name) and (name.startswith("/") or ".." in name.split("/")):
            return ImageError(f"the image {name!r} lies outside '{root}'; it is not read")
        return str(below(root, name))
    path = str(Path(root) / name)
    if confined and leaves(path, Path(root)):
        return ImageError(f"the image {path!r} lies outside '{root}'; it is not read")
    return path


def embedded_image(text: str) -> bytes | ImageError | None:
    """Decode a data: URI or the base64 of an image; None for any other text."""
    header, comma, body = text.partition(",")
    if header[:5].lower() == "data:" and comma:
        if not header.lower().endswith(";base64"):
            return ImageError(f"the data URI {header[:SHOWN]!r} is not base64; encode its image as base64")
        return _decoded(body) or ImageError("the data URI has no valid base64; encode its image again")
    if len(text) < 40 or not _is_image(_decoded(text[:24])) or not _BASE64.fullmatch(text):
        return None
    return _decoded(text)


def read_image(item: Item) -> bytes:
    """Return the bytes of an image, reading its file if it is a path.

    Raises ImageError for an image that is null or wrong, and OSError where it cannot be read, or is no regular file.
    """
    if item is None:
        raise ImageError("the image is null")
    if isinstance(item, ImageError):
        raise item
    if isinstance(item, bytes):
        return item
    if is_remote(item):
        from rag_clip.captions.sources.files import (
            open_file,  # imported here so that a worker that reads no URL loads neither fsspec nor pyarrow
        )

        with open_file(item) as stream:
            return stream.read()
    return read_regular(item)


def _decoded(text: str) -> bytes | None:
    packed = re.sub(r"\s", "", text).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _is_image(start: bytes | None) -> bool:
    return start is not None and (start.startswith(_SIGNATURES) or start[4:8] == b"ftyp")


def leaves(path: str | Path, root: Path) -> bool:
    """Return whether a path, with links resolved, lies outside the folder `root`; False for an invalid path."""
    folder = Path(os.path.realpath(root))
    # A snapshot in the Hugging Face cache is a folder of links into the folder "blobs" beside it.
    blobs = [above.parent / "blobs" for above in (folder, *folder.parents) if above.name == "snapshots"]
    try:
        return not any(Path(os.path.realpath(path)).is_relative_to(place) for place in (folder, *blobs))
    except ValueError:  # a null character
        return False

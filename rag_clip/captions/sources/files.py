"""Find the files of a corpus, on disk or behind an fsspec URL, and open them, decompressed.

The content of a folder is untrusted: a link in it that leads out of the folder is refused, never followed.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import fsspec
import pyarrow as pa

from rag_clip.captions.sources.names import KNOWN, choose_files, fixed_part, format_of
from rag_clip.errors import RagClipError
from rag_clip.files.identity import FileIdentity, identify, identify_remote
from rag_clip.files.locations import is_remote, shown, without_secrets
from rag_clip.files.regular import is_regular, open_regular


class SourceError(RagClipError, OSError):
    """A file of a corpus is damaged or cannot be read; the message names it, and where reading failed."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file whose columns are not yet known; `identity` changes when the file changes.

    `url` may contain secrets; print and record `address` instead.
    """

    url: str
    format: str
    compression: str | None
    size: int
    identity: str

    @property
    def address(self) -> str:
        """The URL without secrets, for printing and recording."""
        return shown(self.url)


def find_files(path: str | Path) -> list[FoundFile]:
    """Return the files that a file name, a folder, a glob or an fsspec URL stands for, sorted by name.

    Folders are searched recursively, without names that begin with a dot or an underscore. .txt files count only if
    there are no others, .json files only if there are no .txt files either (both often accompany images). A tar with a
    Parquet file of the same name, as img2dataset writes them, is ignored in favour of the Parquet file. Raises
    FileNotFoundError and ValueError, saying what was searched for.
    """
    return _find_remote(str(path)) if is_remote(str(path)) else _find_local(str(path))


@contextmanager
def open_file(url: str) -> Iterator[BinaryIO]:
    """Open a file for reading, as stored."""
    if is_remote(url):
        with explained(url):
            remote = fsspec.open(url, "rb").open()
        with remote as file:
            yield file
    else:
        with open_regular(url) as file:
            yield file


@contextmanager
def open_unpacked(url: str, compression: str | None) -> Iterator[BinaryIO]:
    """Open a file for reading, decompressed; reading raises OSError where the file is truncated."""
    with open_file(url) as file:
        if compression is None:
            yield file
        else:
            with pa.CompressedInputStream(pa.PythonFile(file, "r"), compression) as stream:
                yield stream


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Re-raise errors of a storage client as ValueError, for a missing package, or SourceError; without secrets."""
    try:
        yield
    except ImportError as error:
        named = re.search(r"[Ii]nstall (\w+)", str(error))
        raise ValueError(
            f"{shown(url)} needs one more package: {f'pip install {named[1]}' if named else error}"
        ) from None
    except (FileNotFoundError, SourceError, ValueError) as error:
        raise type(error)(without_secrets(str(error))) from None
    except Exception as error:  # storage clients raise their own types, for example without credentials
        raise SourceError(f"{shown(url)} cannot be reached: {without_secrets(str(error))}") from None


def _find_local(given: str) -> list[FoundFile]:
    path = Path(os.path.normpath(Path(given).absolute()))
    if path.is_dir():
        found = choose_files(map(str, _walk(path)), str(path))
        if not found:
            raise ValueError(f"the folder {given} holds no file of captions ({KNOWN})")
    elif not path.exists() and glob.has_magic(given):
        found = choose_files(map(str, _matches(path)), fixed_part(str(path)))
        if not found:
            raise ValueError(f"{given} matches no file of captions ({KNOWN})")
    elif not path.exists():
        raise FileNotFoundError(f"no such file: {given}")
    else:
        found = [str(path)]
    once = {os.path.realpath(name): name for name in reversed(found)}
    return [_local_file(name) for name in sorted(once.values())]


def _walk(folder: Path) -> Iterator[Path]:
    for directory, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        for path in (Path(directory, name) for name in (*folders, *sorted(names))):
            if path.is_symlink() and (path.is_dir() or format_of(path.name)):
                _refuse_exit(path, folder)
        yield from (Path(directory, name) for name in names)


def _matches(pattern: Path) -> Iterator[Path]:
    root = Path(fixed_part(pattern.as_posix()) or pattern.anchor)
    for path in root.glob(str(pattern.relative_to(root))):
        if format_of(path.name) and path.resolve() != path:
            _refuse_exit(path, root)
        if path.is_file():
            yield path


def _refuse_exit(link: Path, folder: Path) -> None:
    root = folder.resolve()
    # A snapshot in the Hugging Face cache is a folder of links to the blobs beside it.
    allowed = [root, *(parent.parent / "blobs" for parent in root.parents if parent.name == "snapshots")]
    if not any(link.resolve().is_relative_to(place) for place in allowed):
        raise ValueError(f"{link} is a link that leads out of {folder}; remove it, or give the file itself by name")


def _local_file(name: str) -> FoundFile:
    identity = replace(identify(name), place=shown(name))
    is_regular(name)
    return _file(name, name, Path(name).stat().st_size, identity)


def _find_remote(url: str) -> list[FoundFile]:
    with explained(url):
        filesystem, path = fsspec.url_to_fs(url)
        if re.search(r"[*]" if url.startswith("http") else r"[*?[]", path):
            return _remote_files(filesystem, filesystem.glob(path), path, url)
        if filesystem.isfile(path) or format_of(urlsplit(url).path):
            return [_remote_file(filesystem, path, url)]
        if not filesystem.exists(path):
            raise FileNotFoundError(f"no such file or folder: {shown(url)}")
        return _remote_files(filesystem, filesystem.find(path), path, url)


def _remote_files(filesystem: Any, names: Iterable[str], path: str, url: str) -> list[FoundFile]:
    found = choose_files(names, fixed_part(path))
    if not found:
        raise ValueError(f"{shown(url)} holds no file of captions ({KNOWN})")
    return [_remote_file(filesystem, name, filesystem.unstrip_protocol(name)) for name in found]


def _remote_file(filesystem: Any, path: str, url: str) -> FoundFile:
    try:
        information: Mapping[str, Any] = filesystem.info(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"no such file: {shown(url)}") from None
    return _file(url, urlsplit(url).path or url, information.get("size") or 0, identify_remote(url, information))


def _file(url: str, name: str, size: int, identity: FileIdentity) -> FoundFile:
    kind = format_of(name)
    if kind is None:
        raise ValueError(f"{shown(url)} is of no known kind; its name must end in one of {KNOWN}")
    return FoundFile(url, *kind, size, identity.digest)

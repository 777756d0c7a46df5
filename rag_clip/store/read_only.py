"""Read-only indexes: the engine writes to the files that it opens, so it gets a copy of them."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rag_clip.files.lock import busy, try_lock

_COPIED_BYTES = 8 << 20


def is_writable(folder: Path) -> bool:
    """Return whether this process may write to all files of an index.

    A file that disappears meanwhile counts as writable: the engine of a killed run may still be running.
    """
    files = (folder, *folder.glob("lock"), *folder.glob("shard"), *folder.glob("shard/**/*"))
    return all(os.access(file, os.W_OK) or not os.access(file, os.F_OK) for file in files)


def copy_index(folder: Path, target: Path) -> None:
    """Copy the shard of an index into the folder `target`; raises BusyError where another process has it open."""
    with _held_still(folder / "lock", doing=f"read the index at {folder}"):
        _copy_sparse(folder / "shard", target / "shard")


@contextmanager
def _held_still(path: Path, *, doing: str) -> Iterator[None]:
    """Take a shared lock, so that no other process can lock the index exclusively during the block; writes nothing.

    Raises BusyError where it is locked exclusively. Without the lock file, no process is writing to the index.
    """
    if not os.access(path, os.R_OK):
        yield
        return
    with path.open("rb") as file:
        if not try_lock(file.fileno(), shared=True):
            raise busy(path, doing)
        yield


def _copy_sparse(source: Path, target: Path) -> None:
    """Copy a folder of sparse files, and keep their holes where the system reports them."""
    target.mkdir()
    for entry in source.iterdir():
        if entry.is_dir():
            _copy_sparse(entry, target / entry.name)
            continue
        with entry.open("rb") as file, (target / entry.name).open("wb") as copy:
            size = os.fstat(file.fileno()).st_size
            copy.truncate(size)
            start = _next(file, 0, size, data=True)
            while start < size:
                end = _next(file, start, size, data=False)
                for offset in range(start, end, _COPIED_BYTES):
                    file.seek(offset)
                    copy.seek(offset)
                    copy.write(file.read(min(_COPIED_BYTES, end - offset)))
                start = _next(file, end, size, data=True)


def _next(file: IO[bytes], start: int, size: int, *, data: bool) -> int:
    """Return the offset at or after `start` where data (or a hole) begins; `size` if there is none."""
    if sys.platform == "win32" or not hasattr(os, "SEEK_DATA"):
        return start if data else size
    try:
        return os.lseek(file.fileno(), start, os.SEEK_DATA if data else os.SEEK_HOLE) if start < size else size
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data behind it
            return size
        return start if data else size

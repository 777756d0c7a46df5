"""Lock files: one process at a time writes to a place.

The operating system locks a file beside the output and releases the lock when the process ends, however it ends, so a
killed process blocks nobody.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rag_clip.errors import RagClipError
from rag_clip.files.folders import make_folder

POLL_SECONDS = 0.2
MOST_NAME_BYTES = 200
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


class BusyError(RagClipError):
    """Another process is writing to the same place; the message says which, and what to do."""


@contextmanager
def locked(path: Path, *, doing: str, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path` during the block; the last process to leave deletes it.

    Any number of processes may hold it `shared`, or one exclusively. If another process holds it, `wait`, or raise
    BusyError, which says what cannot be done (`doing`) and by whom the lock is held.
    """
    make_folder(path.parent)
    file = open_locked(path, shared=shared, wait=wait)
    if file is None:
        raise busy(path, doing)
    try:
        if not shared:
            file.truncate(0)
            file.write(f"process {os.getpid()}".encode())
            file.flush()
        yield
    finally:
        if try_lock(file.fileno(), shared=False):
            path.unlink(missing_ok=True)
        file.close()


def lock_of(path: Path) -> Path:
    """Return the lock file of the output `path`."""
    return path.with_name(f".{short_name(path)}.lock")


def busy(path: Path, doing: str) -> BusyError:
    """Return the error of a lock file that another process holds."""
    holder = ""
    with suppress(OSError):
        holder = path.read_text().strip()
    return BusyError(f"cannot {doing}: {holder or 'another process'} is at it; wait until it ends, or stop it ({path})")


def open_locked(path: Path, *, shared: bool = False, wait: bool = False) -> IO[bytes] | None:
    """Open a file, created if missing, and lock it until it is closed; None if another process has locked it."""
    while True:
        file = path.open("a+b")
        busy_elsewhere = not try_lock(file.fileno(), shared)
        if not busy_elsewhere and _is_at(path, file):  # if not, the last holder has moved or deleted it meanwhile
            return file
        file.close()
        if busy_elsewhere and not wait:
            return None
        if busy_elsewhere:
            time.sleep(POLL_SECONDS)


def try_lock(descriptor: int, shared: bool) -> bool:
    """Try to lock an open file and return whether that worked; true also on a file system without locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            if not shared:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _HELD
    return True


def short_name(path: Path) -> str:
    """Return a file's name, or a hash of it if it is too long to add a prefix and a suffix."""
    if len(os.fsencode(path.name)) <= MOST_NAME_BYTES:
        return path.name
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]


def _is_at(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False

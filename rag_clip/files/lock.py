"""The lock: a place that one process at a time may write to.

Locks are the operating system's, on a file beside what is written: the end of a process lets go of them, however it
ended, and what a killed process left blocks nobody.
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
    """Another process writes to the same place; the message says which, and what to do."""


@contextmanager
def locked(path: Path, *, doing: str, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path` inside the block; the last to leave removes it, and the end of a process lets go.

    Any number may hold it `shared`, or one alone. Where it is held already, `wait` for it, or raise BusyError saying
    what cannot be done (`doing`), and who holds it.
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
    """Open a file, made where it is missing, and lock it until it is closed; None where another process has it."""
    while True:
        file = path.open("a+b")
        held = not try_lock(file.fileno(), shared)
        if not held and _is_at(path, file):  # else its last holder has moved or removed it meanwhile
            return file
        file.close()
        if held and not wait:
            return None
        if held:
            time.sleep(POLL_SECONDS)


def try_lock(descriptor: int, shared: bool) -> bool:
    """Lock an open file; true also on a file system that knows no locks."""
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
    """Return a file's name so that it leaves room for more, however long it is."""
    if len(os.fsencode(path.name)) <= MOST_NAME_BYTES:
        return path.name
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]


def _is_at(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False

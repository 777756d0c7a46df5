"""Files that appear whole or not at all, and places that one process at a time may write to.

The names of what is not finished yet (`.NAME.partial`) and of locks follow from the names of the files, and locks are
the operating system's: what a killed process left blocks nobody, and the next one to write the file removes it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rag_clip.errors import RagClipError

POLL_SECONDS = 0.2
MOST_NAME_BYTES = 200
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF}


class BusyError(RagClipError):
    """Another process writes to the same place; the message says which, and what to do."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to, and move it there when the block ends without an error.

    Makes the folder where there is none. After an error, a full disk or Ctrl-C, `path` is as it was and nothing is
    left beside it; what a killed process left is overwritten. A second writer of `path` waits for the first.
    """
    make_folder(path.parent)
    partial = partial_of(path)
    lock = None if sys.platform == "win32" else _open_locked(partial, wait=True)  # there, an open file is not moved
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        if lock is not None:
            lock.close()


def partial_of(path: Path) -> Path:
    """Return where the unfinished content of `path` lies."""
    return path.with_name(f".{_short(path.name)}.partial")


def lock_of(path: Path) -> Path:
    """Return the lock file of the output `path`."""
    return path.with_name(f".{_short(path.name)}.lock")


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, so that they outlive a power cut; does nothing where it is there."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where its file system can."""
    if sys.platform == "win32":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


@contextmanager
def locked(path: Path, *, doing: str, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path` inside the block; the last to leave removes it, and the end of a process lets go.

    Any number may hold it `shared`, or one alone. Where it is held already, `wait` for it, or raise BusyError saying
    what cannot be done (`doing`), and who holds it.
    """
    make_folder(path.parent)
    file = _open_locked(path, shared=shared, wait=wait)
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


def busy(path: Path, doing: str) -> BusyError:
    """Return the error of a lock file that another process holds."""
    holder = ""
    with suppress(OSError):
        holder = path.read_text().strip()
    return BusyError(f"cannot {doing}: {holder or 'another process'} is at it; wait until it ends, or stop it ({path})")


def remove_stale(path: Path) -> None:
    """Delete the unfinished content of `path` that a killed process left; that of a live one stays."""
    partial = partial_of(path)
    if partial.exists() and (file := _open_locked(partial)) is not None:
        partial.unlink(missing_ok=True)
        file.close()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a new folder among the temporary files, gone after the block; removes those of killed processes too."""
    root, ours = Path(tempfile.gettempdir()), f"rag-clip-{getattr(os, 'getuid', int)()}-"
    for lock in root.glob(f"{ours}*.lock"):
        if (file := _open_locked(lock)) is not None:
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
            file.close()
    folder = root / f"{ours}{uuid.uuid4().hex[:12]}"
    with locked(folder.with_suffix(".lock"), doing=f"use {folder}", wait=True):
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _short(name: str) -> str:
    """Return a name that leaves room for more, however long it is."""
    if len(os.fsencode(name)) <= MOST_NAME_BYTES:
        return name
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def _open_locked(path: Path, *, shared: bool = False, wait: bool = False) -> IO[bytes] | None:
    """Open a file, made where it is missing, and lock it; None where another process has it."""
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


def _is_at(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


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

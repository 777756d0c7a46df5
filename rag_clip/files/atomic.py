"""Files that appear whole or not at all.

Unfinished content lies in `.NAME.partial`. The name follows from the file's, so whoever writes the file next replaces
what a killed process left.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rag_clip.files.folders import make_folder, sync_folder
from rag_clip.files.lock import locked, open_locked, short_name


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to, and move it there when the block ends without an error.

    Makes the folder if it is missing. After an error, a full disk or Ctrl-C, `path` is unchanged and nothing is left
    beside it; the leftovers of a killed process are overwritten. A second writer of `path` waits for the first.
    """
    make_folder(path.parent)
    partial = partial_of(path)
    lock = None if sys.platform == "win32" else open_locked(partial, wait=True)  # Windows does not move open files
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
    """Return the path of the unfinished content of `path`."""
    return path.with_name(f".{short_name(path)}.partial")


def remove_stale(path: Path) -> None:
    """Delete the unfinished content of `path` that a killed process left, but not that of a running one."""
    partial = partial_of(path)
    if partial.exists() and (file := open_locked(partial)) is not None:
        partial.unlink(missing_ok=True)
        file.close()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a new temporary folder, deleted after the block; those of killed processes are deleted first."""
    root, ours = Path(tempfile.gettempdir()), f"rag-clip-{getattr(os, 'getuid', int)()}-"
    for lock in root.glob(f"{ours}*.lock"):
        if (file := open_locked(lock)) is not None:
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

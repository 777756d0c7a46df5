"""Files that appear whole or not at all.

What is not finished yet (`.NAME.partial`) has a name that follows from the file's, so the next one to write the file
removes what a killed process left.
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

    Makes the folder where there is none. After an error, a full disk or Ctrl-C, `path` is as it was and nothing is
    left beside it; what a killed process left is overwritten. A second writer of `path` waits for the first.
    """
    make_folder(path.parent)
    partial = partial_of(path)
    lock = None if sys.platform == "win32" else open_locked(partial, wait=True)  # there, an open file is not moved
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
    return path.with_name(f".{short_name(path)}.partial")


def remove_stale(path: Path) -> None:
    """Delete the unfinished content of `path` that a killed process left; that of a live one stays."""
    partial = partial_of(path)
    if partial.exists() and (file := open_locked(partial)) is not None:
        partial.unlink(missing_ok=True)
        file.close()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a new folder among the temporary files, gone after the block; removes those of killed processes too."""
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

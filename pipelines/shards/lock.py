"""One job at a time in a folder, on one machine or on several that share it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rag_clip.store import StoreError

POLL_SECONDS = 0.2


@contextmanager
def locked(path: Path, *, doing: str, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path` inside the block; its end, or the end of the process, lets go.

    Any number may hold it `shared`, or one alone. Where it is held already, `wait` for it, or raise StoreError saying
    what cannot be done (`doing`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        while not _try_lock(file.fileno(), shared):
            if wait:
                time.sleep(POLL_SECONDS)
                continue
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise StoreError(f"cannot {doing}: {holder} is at it; wait until it ends, or stop it ({path})")
        if not shared:
            file.truncate(0)
            file.write(f"process {os.getpid()}")
            file.flush()
        yield


def _try_lock(descriptor: int, shared: bool) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            if not shared:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

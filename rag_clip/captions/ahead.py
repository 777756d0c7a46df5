"""Runs an iterator ahead of its use, in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
_POLL_SECONDS = 0.1


@contextmanager
def ahead(items: Iterator[Item], depth: int = 1) -> Iterator[Iterator[Item]]:
    """Run an iterator in a thread, with at most `depth` finished items waiting, and yield an iterator of its items.

    Exceptions of the iterator are raised where the items are used. Leaving the block ends the thread after its current
    item.
    """
    made: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stopped = threading.Event()
    thread = threading.Thread(target=_run, args=(items, made, stopped), daemon=True)
    thread.start()
    try:
        yield _take(made)
    finally:
        stopped.set()
        thread.join()


def _run(items: Iterator[Item], made: queue.Queue[tuple[str, Any]], stopped: threading.Event) -> None:
    try:
        for item in items:
            if not _put(made, ("item", item), stopped):
                return
        _put(made, ("end", None), stopped)
    except BaseException as error:  # re-raised where the items are used
        _put(made, ("error", error), stopped)


def _put(made: queue.Queue[tuple[str, Any]], message: tuple[str, Any], stopped: threading.Event) -> bool:
    while not stopped.is_set():
        try:
            made.put(message, timeout=_POLL_SECONDS)
        except queue.Full:
            continue
        return True
    return False


def _take(made: queue.Queue[tuple[str, Any]]) -> Iterator[Any]:
    while True:
        kind, value = made.get()
        if kind == "end":
            return
        if kind == "error":
            raise value
        yield value

"""Keeps log records of other libraries off the console."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_root_logger() -> Iterator[None]:
    """Suppress open_clip's records, which go to the root logger, and prevent them from installing a handler there."""
    root, handler = logging.getLogger(), logging.NullHandler()

    def drop(_record: logging.LogRecord) -> bool:
        return False

    root.addHandler(handler)
    root.addFilter(drop)
    try:
        yield
    finally:
        root.removeFilter(drop)
        root.removeHandler(handler)

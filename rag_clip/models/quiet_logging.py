"""Log records of other libraries, kept off the console."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_root_logger() -> Iterator[None]:
    """Keep open_clip's records, which go to the root logger, from installing a handler there and from being shown."""
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

"""What a machine lacks, for as long as a test needs it to."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def limited(kind: int, least: int) -> Iterator[None]:
    """Give this process `least` of a resource; with RLIMIT_FSIZE files cannot grow beyond, as on a full disk."""
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (least, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))

"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a fresh path beside `path` to write to, and move it there when the block ends without an error.

    After an error, a full disk or Ctrl-C, `path` is as it was and nothing is left beside it.
    """
    partial = path.with_name(f".{uuid.uuid4().hex[:12]}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)

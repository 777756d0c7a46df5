"""The file of `--log`: everything that a verb printed, each line with its time; runs append to it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from re import match
from typing import TextIO

FIRST = "# rag-clip: "
OURS = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d # rag-clip: "


@dataclass(frozen=True)
class Log:
    """Appends lines with their time to a file, and flushes each."""

    file: TextIO

    def write(self, text: str) -> None:
        """Write each line of a text."""
        now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
        self.file.writelines(f"{now} {line}\n" for line in text.splitlines())
        self.file.flush()


@contextmanager
def opened_log(path: Path | None) -> Iterator[Log | None]:
    """Open a log to append to, and write the command as its first line; yields None without a path.

    Raises ValueError for a file that is not a log of rag-clip, and OSError if it cannot be written.
    """
    if path is None:
        yield None
        return
    from rag_clip.files.locations import without_secrets

    if path.exists() and not _is_log(path):
        raise ValueError(f"{path} exists and is not a log of rag-clip; name another file for --log")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        log = Log(file)
        log.write(f"{FIRST}{without_secrets(shlex.join(sys.argv[1:]))}")
        yield log


def _is_log(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline(100)
    return not first or match(OURS, first) is not None

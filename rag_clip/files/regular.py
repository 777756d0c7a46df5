"""Find and open files that somebody named: a pipe, a socket or a device, which may never end, is refused."""

from __future__ import annotations

from io import BufferedReader
from pathlib import Path


def is_regular(path: str | Path) -> bool:
    """Return whether a regular file is at `path`, links followed; raises OSError for a pipe, a socket or a device."""
    path = Path(path)
    if path.is_file():
        return True
    if path.exists() and not path.is_dir():
        raise OSError(f"{path} is a pipe, a socket or a device, which is not read; write its content to a file")
    return False


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file for reading; raises OSError as `is_regular`, for a folder, and where it cannot be opened."""
    if not is_regular(path) and Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder; give a file")
    return Path(path).open("rb")


def read_regular(path: str | Path) -> bytes:
    """Return the content of a regular file; raises as `open_regular`."""
    with open_regular(path) as file:
        return file.read()

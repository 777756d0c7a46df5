"""Where files lie: a path of this machine, or a URL, which pathlib would mangle."""

from __future__ import annotations

from pathlib import Path

Place = Path | str


def is_remote(place: str | Path) -> bool:
    """Tell whether a place is an fsspec URL; a path of this machine never is."""
    return isinstance(place, str) and ("://" in place or "::" in place)


def to_place(given: str | Path) -> Place:
    """Return a URL as it stands and anything else as a path."""
    return given if isinstance(given, str) and is_remote(given) else Path(given)


def parent(place: Place) -> Place:
    """Return the folder of a file."""
    return place.rpartition("/")[0] if isinstance(place, str) else place.parent


def file_identity(path: str | Path) -> tuple[str, int, int]:
    """Return a file's place, size in bytes and time of change in nanoseconds; raises FileNotFoundError."""
    place = Path(path).resolve()
    status = place.stat()
    return str(place), status.st_size, status.st_mtime_ns


def below(folder: str | Path, name: str) -> Place:
    """Return the place of `name`, a URL of its own or a path relative to a folder, which may be a URL."""
    if is_remote(name) or not isinstance(folder, str) or not is_remote(folder):
        return name if is_remote(name) else Path(folder) / name
    return f"{folder.rstrip('/')}/{name}"

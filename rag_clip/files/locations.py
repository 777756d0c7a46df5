"""Locations of files: a local path, or a URL, which pathlib would change."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

Place = Path | str
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://((?:(?!::)[^\s'\"<>])*)")
_USER_IS_NO_SECRET = {"github"}  # github://ORG:REPOSITORY@BRANCH/PATH


def is_remote(place: str | Path) -> bool:
    """Return whether a place is an fsspec URL; a Path never is."""
    return isinstance(place, str) and ("://" in place or "::" in place)


def shown(place: str | Path) -> str:
    """Return a place as it may be printed and recorded: a URL without user, password, query and fragment.

    Query and fragment are replaced by eight digits of their hash, so that URLs that differ in them remain different.
    """
    return without_secrets(place) if isinstance(place, str) and is_remote(place) else str(place)


def without_secrets(text: str) -> str:
    """Return a text with every URL in it as by `shown`."""
    return _ADDRESS.sub(lambda address: _open_part(address[1], address[2]), text)


def _open_part(scheme: str, rest: str) -> str:
    before, at, after = rest.rpartition("@")
    inside = re.split("[/?#]", before)[0]
    # A password may contain an unescaped slash, and a path may contain an @; a colon before the @ marks a password.
    if at and scheme not in _USER_IS_NO_SECRET and (inside == before or re.search(r":(?!\d*$)", inside)):
        rest = after
    path, tail = re.fullmatch(r"([^?#]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    hidden = hashlib.sha256(tail.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{scheme}://{path}?hidden={hidden}" if tail else f"{scheme}://{path}"


def to_place(given: str | Path) -> Place:
    """Return a URL unchanged and anything else as a Path."""
    return given if isinstance(given, str) and is_remote(given) else Path(given)


def parent(place: Place) -> Place:
    """Return the folder of a file."""
    return place.rpartition("/")[0] if isinstance(place, str) else place.parent


def below(folder: str | Path, name: str) -> Place:
    """Return the place of `name` in a folder, which may be a URL; a `name` that is a URL is returned unchanged."""
    if is_remote(name) or not isinstance(folder, str) or not is_remote(folder):
        return name if is_remote(name) else Path(folder) / name
    return f"{folder.rstrip('/')}/{name}"

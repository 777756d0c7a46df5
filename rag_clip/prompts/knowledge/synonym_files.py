"""Synonyms of class names from JSON files: the format of REAL, and plain {"name": ["synonym", ...]}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rag_clip.files.reading import parse_json
from rag_clip.files.regular import is_regular, read_regular


def read_synonyms(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Return the synonyms of each name in a file, in file order, without the name itself.

    REAL (Parashar et al., 2024, arXiv 2401.12425) writes {"0": {"name": ..., "alternates": {synonym: frequency}}}; see
    `read_frequencies`. Raises ValueError, naming the file and the entry, for another structure, a name that comes
    twice, and empty texts; FileNotFoundError for a missing file.
    """
    return {
        name: tuple(dict.fromkeys(text for text in names if text != name)) for name, names in _read(Path(path)).items()
    }


def read_frequencies(path: str | Path) -> dict[str, dict[str, int]]:
    """Return, for each name in a REAL file, the frequencies of its synonyms (and of itself) in the authors' corpus.

    Names without frequencies are left out: those of plain lists, and entries with a frequency that is not an integer.
    Raises as `read_synonyms`.
    """
    return {
        name: names
        for name, names in _read(Path(path)).items()
        if isinstance(names, dict) and names and all(type(count) is int and count >= 0 for count in names.values())
    }


def _read(path: Path) -> dict[str, list[str] | dict[str, Any]]:
    if not is_regular(path):
        raise FileNotFoundError(f"there is no synonym file {path}; give a JSON file")
    try:
        return _synonyms(parse_json(read_regular(path), pairs=_once))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object and refuse a repeated key, since the JSON parser would silently keep the last."""
    built: dict[str, Any] = {}
    for key, value in pairs:
        if key in built:
            raise ValueError(f"the name {key!r} comes twice; merge its entries")
        built[key] = value
    return built


def _synonyms(document: object) -> dict[str, list[str] | dict[str, Any]]:
    if not isinstance(document, dict) or not document:
        raise ValueError(
            f"holds {_shown(document)}; give an object of names with their lists of synonyms, or one in REAL's format"
        )
    found: dict[str, list[str] | dict[str, Any]] = {}
    for key, value in document.items():
        name, names = _real(key, value) if isinstance(value, dict) else (key.strip(), _list(key, value))
        if name in found:
            raise ValueError(f"the name {name!r} comes twice, the second time at {key!r}; merge its entries")
        found[_text(name, key)] = names
    return found


def _real(key: str, entry: Mapping[str, Any]) -> tuple[str, list[str] | dict[str, Any]]:
    name, alternates = entry.get("name"), entry.get("alternates")
    if not isinstance(name, str) or not isinstance(alternates, dict | list):
        raise ValueError(
            f"entry {key!r} has the keys {', '.join(map(repr, entry))}; REAL's format has a text `name` and an "
            f"object `alternates`"
        )
    names = _list(key, list(alternates))
    if isinstance(alternates, dict):
        return name.strip(), dict(zip(names, alternates.values(), strict=True))
    return name.strip(), names


def _list(key: str, value: object) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"entry {key!r} holds {_shown(value)}; give a list of synonyms")
    return [_text(synonym, key) for synonym in value]


def _text(value: object, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"entry {key!r} holds the name {value!r}; give texts that are not empty")
    return value.strip()


def _shown(value: object) -> str:
    return "nothing" if value in ({}, [], None) else f"a {type(value).__name__}, {str(value)[:60]!r}"

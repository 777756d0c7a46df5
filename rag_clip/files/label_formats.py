"""Class lists as other tools write them: numbered lines, WordNet ids, Keras' class index, id2label, COCO categories.

A format is recognised only if all entries follow it; anything else is returned unchanged.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rag_clip.files.reading import parse_json

WORDNET_ID = re.compile(r"[nvars]\d{8}")
_NUMBERED = re.compile(r"(\d+)\s*[,;:\t]\s*(.+)")
_SPACED = re.compile(r"(\d+)\s+(.+)")
_NUMBER_LAST = re.compile(r"(.+?)[\s,;]+(\d+)")
_SYNSET = re.compile(rf"({WORDNET_ID.pattern})[\s,;:]+(.+)")


def read_lines(text: str) -> list[Any]:
    """Return the entries of a text, names or objects with a `name`: one per line, or from a JSON or Python literal.

    Lines are names unless all of them are `0,cat` (or `:`, `;`, tab; counted from 0 or 1), `0 cat` or `cat 0` (from 0),
    or `n01440764 tench, Tinca tinca`, where names after the first are synonyms. Numbers give the order, and are ids.
    """
    text = text.rstrip()
    if text.lstrip()[:1] in ("{", "[") and (document := _document(text)) is not None:
        entries = to_entries(document)
        return entries if isinstance(entries, list) else [text]
    lines = [line.strip() for line in text.split("\n")] if text else []
    synsets = _all(_SYNSET, lines)
    if synsets:
        return [_with_synonyms(identity, names.split(",")) for identity, names in synsets]
    return _counted(_all(_NUMBERED, lines), starts=(0, 1)) or _numbered(lines) or list(lines)


def _numbered(lines: Sequence[str]) -> list[Any] | None:
    """Read numbered lines below a header, or `0 cat` and `cat 0`, which count from 0; None for other lines."""
    header = len(lines) > 2 and re.search("[,;\t]", lines[0]) and not _NUMBERED.fullmatch(lines[0])
    headed = _counted(_all(_NUMBERED, lines[1:]), starts=(0, 1)) if header else None
    spaced = _counted(_all(_SPACED, lines), starts=(0,)) if len(lines) > 1 else None
    last = [(number, name) for name, number in _all(_NUMBER_LAST, lines) or ()] if len(lines) > 2 else None
    in_order = last and [int(number) for number, _ in last] == list(range(len(lines)))
    return headed or spaced or (_counted(last, starts=(0,)) if in_order else None)


def to_entries(document: Any) -> Any:
    """Return the entries of a document in another tool's format; any other document unchanged.

    Formats: {"0": "cat"}, {"0": ["n01440764", "tench"]}, {"n01440764": "tench"}, {"cat": 0}, lists of [id, name], an
    object with `id2label` (config.json), and one with COCO's `categories`.
    """
    if isinstance(document, Mapping):
        if isinstance(document.get("id2label"), Mapping):
            return to_entries(document["id2label"])
        if isinstance(document.get("categories"), list) and "labels" not in document:
            return to_entries(document["categories"])
        return _from_object(document) or document
    if not isinstance(document, list) or not document:
        return document
    if all(isinstance(entry, list | tuple) and len(entry) == 2 for entry in document):
        return [_with_synonyms(str(identity), [name]) for identity, name in document]
    if all(isinstance(entry, Mapping) and isinstance(entry.get("id"), int) and "name" in entry for entry in document):
        return [
            {"name": entry["name"], "id": str(entry["id"]), "group": entry.get("supercategory", "")}
            for entry in document
        ]
    return document


def _from_object(document: Mapping[Any, Any]) -> list[Any] | None:
    keys, values = [str(key) for key in document], list(document.values())
    if not keys:
        return None
    if all(key.isdecimal() for key in keys):
        pairs = [_pair(key, value) for key, value in sorted(document.items(), key=lambda item: int(item[0]))]
        return pairs if all(pair is not None for pair in pairs) else None
    if all(WORDNET_ID.fullmatch(key) for key in keys):
        pairs = [_pair(key, value) for key, value in document.items()]
        return pairs if all(pair is not None for pair in pairs) else None
    whole = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
    if len(whole) == len(values) and sorted(whole) == list(range(min(whole), min(whole) + len(whole))):
        return [
            {"name": name, "id": str(number)} for name, number in sorted(document.items(), key=lambda item: item[1])
        ]
    return None


def _pair(key: Any, value: Any) -> dict[str, Any] | None:
    """Read a class given by its number or id: a name, an id with a name, or several names."""
    if isinstance(value, str):
        return _with_synonyms(str(key), value.split(",") if WORDNET_ID.fullmatch(str(key)) else [value])
    if isinstance(value, Sequence) and value and all(isinstance(name, str) for name in value):
        identity, *names = value
        return (
            _with_synonyms(identity, names)
            if names and WORDNET_ID.fullmatch(identity)
            else _with_synonyms(str(key), value)
        )
    return None


def _with_synonyms(identity: str, names: Sequence[Any]) -> dict[str, Any]:
    name, *synonyms = [each.strip() if isinstance(each, str) else each for each in names]
    return {
        "name": name,
        "id": identity,
        "synonyms": [each for each in dict.fromkeys(synonyms) if each and each != name],
    }


def _counted(pairs: Sequence[tuple[str, str]] | None, *, starts: Sequence[int]) -> list[Any] | None:
    """Return the names in the order of their numbers, if these are consecutive from one of `starts`; else None."""
    by_number = {int(number): name.strip().strip("\"'").strip() for number, name in pairs or ()}
    if not pairs or len(by_number) < len(pairs) or min(by_number) not in starts:
        return None
    if max(by_number) - min(by_number) >= len(pairs):
        return None
    return [{"name": by_number[number], "id": str(number)} for number in sorted(by_number)]


def _all(pattern: re.Pattern[str], lines: Sequence[str]) -> list[tuple[str, str]] | None:
    found = [match.groups() for line in lines if (match := pattern.fullmatch(line))]
    return [(first, second) for first, second in found] if lines and len(found) == len(lines) else None


def _document(text: str) -> Any:
    """Parse a text as JSON, or as a Python literal, a common form of ImageNet's class lists; None if it is neither."""
    try:
        return parse_json(text)
    except ValueError:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return None

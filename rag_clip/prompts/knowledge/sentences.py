"""Files of sentences about classes, in the published formats of CuPL, DCLIP, LaBo and ELEVATER.

CuPL (Pratt et al., 2023, arXiv 2209.03320), DCLIP (Menon and Vondrick, 2023, arXiv 2210.07183) and LaBo (Yang et al.,
2023, arXiv 2211.11158) use JSON objects {class: [texts]}. The files of ELEVATER (Li et al., 2022, arXiv 2204.08790) are
named .tsv, but contain a JSON list of {"classname", "def_wiki", "def_wn", "path_wn"} or {"classname", "gpt3"}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rag_clip.files.reading import parse_json
from rag_clip.files.regular import is_regular, read_regular

Kind = Literal["cupl", "dclip", "labo", "elevater definitions", "elevater gpt3"]
Definition = Literal["def_wiki", "def_wn", "path_wn"]
FLAT: tuple[Kind, ...] = ("cupl", "dclip", "labo")
LEAST_CONCEPTS = 50
PATH_NAMES = 3


@dataclass(frozen=True, slots=True)
class Sentences:
    """The texts of a knowledge file per class name, spelled and ordered as in the file; a class may have none.

    Repeated texts are kept: they were generated more than once. `source` names the kind and the file.
    """

    kind: Kind
    by_name: Mapping[str, tuple[str, ...]]
    source: str


def read_sentences(path: str | Path, *, kind: Kind | None = None, definition: Definition = "def_wiki") -> Sentences:
    """Read a knowledge file; its kind is recognised by its content, unless `kind` is given.

    A JSON object is CuPL if most texts end like a sentence; else LaBo if classes have 50 texts or more on average; else
    DCLIP. From ELEVATER's definitions one `definition` is read: Wiktionary's, WordNet's, or the first three names of
    WordNet's hierarchy. Line breaks and double spaces become single spaces; empty texts are left out. Raises
    FileNotFoundError, and ValueError, naming the file, the class and what was found, for another format and for a class
    that comes twice.
    """
    path = Path(path)
    if kind is not None and kind not in get_args(Kind):
        raise ValueError(f"unknown kind {kind!r} of knowledge file; known are {', '.join(get_args(Kind))}")
    if definition not in get_args(Definition):
        raise ValueError(f"unknown definition {definition!r}; known are {', '.join(get_args(Definition))}")
    if not is_regular(path):
        raise FileNotFoundError(f"there is no knowledge file {path}; give a CuPL, DCLIP, LaBo or ELEVATER file")
    try:
        found, by_name = _parse(read_regular(path), definition)
        if kind not in (None, found) and not {kind, found} <= set(FLAT):
            raise ValueError(f"is no file of kind {kind!r}; it looks like {found!r}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Sentences(kind or found, by_name, f"{kind or found}:{path.name}")


def _parse(content: bytes, definition: Definition) -> tuple[Kind, dict[str, tuple[str, ...]]]:
    try:
        document = parse_json(content, pairs=_without_repeats)
    except ValueError as error:
        raise ValueError(f"{error} (knowledge files are JSON, even those named .tsv)") from error
    if not isinstance(document, Mapping | list) or not document:
        raise ValueError(f"holds {str(document)[:40]!r}; give an object {{class: [texts]}}, or ELEVATER's list")
    if isinstance(document, list):
        return _elevater(document, definition)
    by_name = {name: _texts(texts, name) for name, texts in document.items()}
    return _flat_kind(by_name), by_name


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} stands twice in one object; join the two entries")
        found[name] = value
    return found


def _flat_kind(by_name: Mapping[str, Sequence[str]]) -> Kind:
    texts = [text for texts in by_name.values() for text in texts]
    if not texts:
        raise ValueError("holds no texts; give each class at least one")
    if 2 * sum(text.endswith((".", "!", "?", "。", "！", "？")) for text in texts) > len(texts):
        return "cupl"
    return "labo" if len(texts) >= LEAST_CONCEPTS * len(by_name) else "dclip"


def _elevater(entries: Sequence[Any], definition: Definition) -> tuple[Kind, dict[str, tuple[str, ...]]]:
    kind: Kind = "elevater gpt3" if isinstance(entries[0], Mapping) and "gpt3" in entries[0] else "elevater definitions"
    key = "gpt3" if kind == "elevater gpt3" else definition
    by_name: dict[str, tuple[str, ...]] = {}
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("classname"), str) or key not in entry:
            raise ValueError(f"entry {number} has no `classname` or no `{key}`; found {str(entry)[:80]}")
        name = entry["classname"]
        if name in by_name:
            raise ValueError(f"entry {number} repeats the class {name!r}; join the two entries")
        texts = _texts([] if entry[key] in ("", None) else entry[key], name, alone=key.startswith("def_"))
        by_name[name] = texts if key != "path_wn" else _path(texts)
    return kind, by_name


def _path(names: Sequence[str]) -> tuple[str, ...]:
    return (" ".join(names[:PATH_NAMES]).replace("_", " "),) if names else ()


def _texts(texts: Any, name: str, *, alone: bool = False) -> tuple[str, ...]:
    if alone and isinstance(texts, str):
        texts = [texts]
    if isinstance(texts, Mapping) and "alternates" in texts:
        raise ValueError(f"class {name!r} has `alternates`: these are synonyms in REAL's format, not sentences")
    if not isinstance(texts, list):
        raise ValueError(f"class {name!r} holds {str(texts)[:80]!r}; give a list of texts")
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"class {name!r} holds {str(text)[:80]!r} among its texts; give texts alone")
    return tuple(clean for text in texts if (clean := " ".join(text.split())))

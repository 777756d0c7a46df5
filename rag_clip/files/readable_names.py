"""Class names as words that a person would say, and notes on names that will not work well."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from rag_clip.data import LabelSet
from rag_clip.display import counted
from rag_clip.files.label_formats import WORDNET_ID
from rag_clip.words import spoken

NAMES_SHOWN = 3
_LEADING = re.compile(r"\d+[.\-_ ]+(?=\D)")
_CAMEL = re.compile(r"[A-Z][a-z]+(?:[A-Z][a-z]+)+")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


def readable_names(labels: LabelSet) -> LabelSet:
    """Return the label set with names as words, for "fire_truck", "AnnualCrop" or CUB's "001.Laysan_Albatross".

    Underscores become spaces, joined words are separated, and a number is removed if every name begins with one. A
    class without an id keeps its old name as its id, so that images labelled by it are still found. Raises ValueError
    if two names would become the same.
    """
    leading = _numbered(labels)
    names = tuple(readable_name(_LEADING.sub("", name) if leading else name) for name in labels.names)
    first: dict[str, int] = {}
    for row, name in enumerate(names):
        if first.setdefault(name, row) != row:
            both = f"{labels.names[first[name]]!r} and {labels.names[row]!r}"
            raise ValueError(f"{both} would both read {name!r}; rename one, or keep the names as they are")
    return replace(labels, names=names)


def readable_name(name: str) -> str:
    """Return a name with spaces in place of underscores and between joined words."""
    words = " ".join(re.sub(r"_+", " ", name).split())
    return _HUMP.sub(" ", words) if _CAMEL.fullmatch(name.strip()) else words or name


def name_notes(labels: LabelSet) -> tuple[str, ...]:
    """Return one sentence for each problem with the names, such as underscores; () if there is none."""
    return tuple(_notes(labels))


def _notes(labels: LabelSet) -> Iterator[str]:
    if len(labels) == 1:
        name = labels.names[0]
        if "," in name:
            yield f"there is one class, {name!r}; if these are several names, put each on a line of its own"
        else:
            yield f"there is one class, {name!r}, so every image gets it; add a second, such as a class for the rest"
    for problem, (advice, has_problem) in _PROBLEMS.items():
        names = [name for name in labels.names if has_problem(name)]
        if names:
            yield f"{_some(names, len(labels))} {problem}; {advice}"
    if _numbered(labels):
        yield f"every name begins with a number, such as {labels.names[0]!r}; {_READABLE}"
    repeated = [name for name in labels.names if spoken(name) != name]
    if repeated:
        yield (
            f"{_some(repeated, len(labels))} share their names and differ only by id; give them different names, or "
            "synonyms"
        )


def _numbered(labels: LabelSet) -> bool:
    return len(labels) > 1 and all(_LEADING.match(name) for name in labels.names)


def _some(names: list[str], count: int) -> str:
    shown = ", ".join(map(repr, names[:NAMES_SHOWN]))
    return f"{len(names)} of {counted(count, 'name')} ({shown}{', ...' if len(names) > NAMES_SHOWN else ''})"


def _has_invisible(name: str) -> bool:
    return any(
        unicodedata.category(letter) in ("Cc", "Cf", "Co", "Cn") and letter not in "\u200c\u200d" for letter in name
    )


_READABLE = "--readable-names turns them into words"
_PROBLEMS: Mapping[str, tuple[str, Callable[[str], bool]]] = {
    "contain an invisible character, such as a control character": ("type them again", _has_invisible),
    "contain an underscore": (_READABLE, lambda name: "_" in name),
    "join words": (_READABLE, lambda name: _CAMEL.fullmatch(name) is not None),
    "are WordNet ids": ("add the names", lambda name: WORDNET_ID.fullmatch(name) is not None),
    "are numbers": ("give the names of the classes", str.isdecimal),
}

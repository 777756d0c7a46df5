"""Names as a person would say them, and what in a label set a user should look at."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from rag_clip.data import LabelSet
from rag_clip.files.label_formats import WORDNET_ID
from rag_clip.words import spoken

NAMES_SHOWN = 3
_LEADING = re.compile(r"\d+[.\-_ ]+(?=\D)")
_CAMEL = re.compile(r"[A-Z][a-z]+(?:[A-Z][a-z]+)+")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


def readable_names(labels: LabelSet) -> LabelSet:
    """Return the label set with names as words: "fire_truck", "AnnualCrop", and "001.Laysan_Albatross" of CUB.

    Underscores become spaces and joined words are parted; a number before every name goes. A class that has no id of
    its own keeps its former name as one, so that images labelled by it are still of the class. Raises ValueError where
    two names would become one.
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
    """Return a name with spaces for underscores and between joined words."""
    words = " ".join(re.sub(r"_+", " ", name).split())
    return _HUMP.sub(" ", words) if _CAMEL.fullmatch(name.strip()) else words or name


def name_notes(labels: LabelSet) -> tuple[str, ...]:
    """Return what a user should know of the names, a sentence each; () for names like any other."""
    return tuple(_notes(labels))


def _notes(labels: LabelSet) -> Iterator[str]:
    if len(labels) == 1:
        name = labels.names[0]
        if "," in name:
            yield f"there is one class, {name!r}; if these are several names, put each on a line of its own"
        else:
            yield f"there is one class, {name!r}, and every image will be of it; give a second, such as what it is not"
    for what, (advice, is_so) in _LOOKS.items():
        held = [name for name in labels.names if is_so(name)]
        if held:
            yield f"{_some(held, len(labels))} {what}; {advice}"
    if _numbered(labels):
        yield f"every name begins with a number, such as {labels.names[0]!r}; {_READABLE}"
    told = [name for name in labels.names if spoken(name) != name]
    if told:
        yield f"{_some(told, len(labels))} share their names and differ by id alone; call them apart, or give synonyms"


def _numbered(labels: LabelSet) -> bool:
    return len(labels) > 1 and all(_LEADING.match(name) for name in labels.names)


def _some(names: list[str], count: int) -> str:
    shown = ", ".join(map(repr, names[:NAMES_SHOWN]))
    return f"{len(names)} of {count} names ({shown}{', ...' if len(names) > NAMES_SHOWN else ''})"


def _controls(name: str) -> bool:
    return any(
        unicodedata.category(letter) in ("Cc", "Cf", "Co", "Cn") and letter not in "\u200c\u200d" for letter in name
    )


_READABLE = "--readable-names says them as words"
_LOOKS: Mapping[str, tuple[str, Callable[[str], bool]]] = {
    "hold a character that is not seen, such as a control character": ("write them anew", _controls),
    "hold an underscore": (_READABLE, lambda name: "_" in name),
    "join words": (_READABLE, lambda name: _CAMEL.fullmatch(name) is not None),
    "are ids of WordNet": ("give the names with them", lambda name: WORDNET_ID.fullmatch(name) is not None),
    "are numbers": ("give the names of the classes", str.isdecimal),
}

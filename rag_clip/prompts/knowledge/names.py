"""The class of each entry of a knowledge file, and how often a name occurs on its own in a corpus."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rag_clip.data import LabelSet
from rag_clip.display import counted
from rag_clip.words import near_names, spoken, words_of

# Accents of Latin, Greek and Cyrillic; in other scripts such marks are part of the letter.
_ACCENTS = re.compile("[\u0300-\u036f]")
_SEPARATORS = re.compile(r"[\s_\-\u2010-\u2015\u2212]+")
NEAREST_OF = 5
_ENDINGS = ("s", "es")
_Forms = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class NameMatch:
    """The class index of each key that matches a class, in key order; and the keys and labels without a match.

    A class may have several keys that match its name equally well.
    """

    rows: Mapping[str, int]
    unmatched_keys: tuple[str, ...]
    unmatched_labels: tuple[str, ...]


def match_names(labels: LabelSet, keys: Iterable[str]) -> NameMatch:
    """Find the class of each key: by its exact name, else by its `folded` name, else by a folded synonym.

    If a key matches the name of a class, keys that match only its synonyms stay unmatched. Raises ValueError, naming
    both classes, where a key matches two equally well.
    """
    keys = tuple(dict.fromkeys(keys))
    ways = (
        {name: [row] for row, name in enumerate(labels.names)},
        _forms([name] for name in labels.names),
        _forms(labels.synonyms),
    )
    found = {key: match for key in keys if (match := _match(key, ways, labels)) is not None}
    nearest = {row: min(way for way, at in found.values() if at == row) for row in {row for _, row in found.values()}}
    rows = {key: row for key, (way, row) in found.items() if way == nearest[row]}
    return NameMatch(
        rows,
        tuple(key for key in keys if key not in rows),
        tuple(name for row, name in enumerate(labels.names) if row not in nearest),
    )


def require_match(match: NameMatch, labels: LabelSet, source: str) -> None:
    """Raise ValueError, with the nearest names, where no key of `source` matches a class."""
    if not match.rows:
        keys = match.unmatched_keys
        shown = ", ".join(map(repr, keys[:NEAREST_OF])) + (", ..." if len(keys) > NEAREST_OF else "")
        near = nearest_classes(keys, labels)
        raise ValueError(
            f"{source} has none of the {counted(len(labels), 'class')}; it has {shown or 'no names'}"
            f"{f' ({near})' if near else ''}; give a file of these classes, or its names as synonyms in the label file"
        )


def nearest_classes(keys: Sequence[str], labels: LabelSet) -> str:
    """Return "'tabby' is near to 'tabby cat', ..." for the first keys that are spelled like a class; '' without any."""
    pairs = [(key, near_names(key, labels.names, most=1, cutoff=0.7)) for key in keys[:NEAREST_OF]]
    return ", ".join(f"{key!r} is near to {near[0]!r}" for key, near in pairs if near)


def number_forms(name: str) -> Iterator[str]:
    """Yield a name with and without the ending of a plural."""
    yield name
    for ending in _ENDINGS:
        yield name + ending
        yield name.removesuffix(ending)


def folded(name: str) -> str:
    """Return the folded words of a name, without accents, joined by single spaces.

    A name without words keeps its symbols, without spaces, hyphens and underscores.
    """
    letters = unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFKD", spoken(name))))
    return " ".join(words_of(letters)) or _SEPARATORS.sub(" ", letters).strip()


def _forms(spellings: Iterable[Sequence[str]]) -> dict[str, list[int]]:
    forms: dict[str, list[int]] = {}
    for row, names in enumerate(spellings):
        for form in {folded(name) for name in names} - {""}:
            forms.setdefault(form, []).append(row)
    return forms


def _match(key: str, ways: Sequence[_Forms], labels: LabelSet) -> tuple[int, int] | None:
    """Return the first of the `ways` in which a key matches a class, and the class index; None without a match."""
    for way, forms in enumerate(ways):
        rows = forms.get(folded(key) if way else key, ())
        if len(rows) > 1:
            both = " and ".join(repr(labels.names[row]) for row in rows[:2])
            what = "a synonym of" if way == 2 else "a spelling of"
            raise ValueError(f"{key!r} is {what} both {both}; spell it as one of them, or take it from one's synonyms")
        if rows:
            return way, rows[0]
    return None


def count_alone(labels: LabelSet, names: Sequence[Sequence[str]], counts: Mapping[str, int]) -> list[list[int]]:
    """Return the count of each name minus the counts of other class names that contain it word by word.

    `names` are given per class; `counts` has all of them and the class names. If "tiger shark" and "sand tiger shark"
    both contain "shark", the count of "tiger shark" already covers both. The result is at least 0: an occurrence inside
    two overlapping names ("great white" and "white shark" in "great white shark") is subtracted twice.
    """
    sizes = {len(folded(name).split()) for group in names for name in group}
    around: dict[str, list[int]] = {}
    for row, label in enumerate(labels.names):
        words = folded(label).split()
        for size in sizes & set(range(1, len(words))):
            for start in range(len(words) - size + 1):
                around.setdefault(" ".join(words[start : start + size]), []).append(row)

    def alone(row: int, name: str) -> int:
        rows = [other for other in around.get(folded(name), ()) if other != row]
        longer = {f" {folded(labels.names[other])} ": labels.names[other] for other in rows}
        shortest = [key for key in longer if not any(other in key for other in longer if other != key)]
        return max(0, counts[name] - sum(counts[longer[key]] for key in shortest))

    return [[alone(row, name) for name in group] for row, group in enumerate(names)]

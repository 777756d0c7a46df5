"""Contrast by name: a caption that speaks of other classes only is no evidence for this one. The rule is ours.

A caption names a class where it holds the class's whole name or a whole synonym, word by word; of names that overlap
the longest wins, so "a tiger shark" does not name "shark". A caption is refused for class c when it names classes and
c is not among them; one that names none, or c beside others, is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rag_clip.data import LabelSet
from rag_clip.words import spoken, words_of


class Mentions:
    """Which classes of a label set a caption names."""

    def __init__(self, labels: LabelSet) -> None:
        self._classes: dict[tuple[str, ...], set[str]] = {}
        for name, synonyms in zip(labels.names, labels.synonyms, strict=True):
            for spelling in (name, *synonyms):
                self._classes.setdefault(tuple(words_of(spoken(spelling))), set()).add(name)
        self._classes.pop((), None)
        self._lengths: dict[str, list[int]] = {}
        for words in sorted(self._classes, key=len, reverse=True):
            lengths = self._lengths.setdefault(words[0], [])
            if len(words) not in lengths:
                lengths.append(len(words))

    def names(self, caption: str) -> set[str]:
        """Return the names of the classes that a caption names."""
        words, found, place = words_of(caption), set[str](), 0
        while place < len(words):
            spans = (tuple(words[place : place + length]) for length in self._lengths.get(words[place], ()))
            longest = next((span for span in spans if span in self._classes), None)
            found |= self._classes[longest] if longest else set()
            place += len(longest) if longest else 1
        return found

    def keep(self, name: str, _synonyms: Sequence[str] = ()) -> Callable[[str], bool]:
        """Return the filter of a class: False for captions that name other classes and not this one."""

        def kept(caption: str) -> bool:
            named = self.names(caption)
            return not named or name in named

        return kept

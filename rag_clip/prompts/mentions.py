"""Contrast by name: a caption that names only other classes is no evidence for this class. The rule is ours.

A caption names a class if it contains the class's whole name or a whole synonym, word by word. Of overlapping names the
longest counts, so "a tiger shark" does not name "shark". A caption is refused for class c if it names classes and c is
not among them; a caption that names no class, or c and others, is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rag_clip.data import LabelSet
from rag_clip.words import spoken, words_of


class Mentions:
    """Finds the classes of a label set that a caption names."""

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
        self._with_word: dict[str, list[tuple[str, ...]]] = {}
        for words in self._classes:
            for word in set(words):
                self._with_word.setdefault(word, []).append(words)

    def names(self, caption: str) -> set[str]:
        """Return the names of the classes that a caption names."""
        words, named, start = words_of(caption), set[str](), 0
        while start < len(words):
            spans = (tuple(words[start : start + length]) for length in self._lengths.get(words[start], ()))
            longest = next((span for span in spans if span in self._classes), None)
            named |= self._classes[longest] if longest else set()
            start += len(longest) if longest else 1
        return named

    def keep(self, name: str, _synonyms: Sequence[str] = ()) -> Callable[[str], bool]:
        """Return the predicate of a class: False for captions that name other classes but not this one."""

        def kept(caption: str) -> bool:
            named = self.names(caption)
            return not named or name in named

        return kept

    def keep_holding(self, name: str, synonyms: Sequence[str] = ()) -> Callable[[str], bool]:
        """Return `keep` for captions that hold a spelling of the class; it looks only where that may not count."""
        spellings = [tuple(words_of(spoken(spelling))) for spelling in (name, *synonyms)]
        return self.keep(name) if any(map(self._may_be_hidden, filter(None, spellings))) else lambda _caption: True

    def _may_be_hidden(self, words: tuple[str, ...]) -> bool:
        """Return whether a name in a caption may be part of a longer one, or of one that begins before it."""
        return any(
            (start or len(other) > len(words)) and other[start : start + len(words)] == words[: len(other) - start]
            for other in self._with_word[words[0]]
            for start in range(len(other))
        )

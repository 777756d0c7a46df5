"""Plurals of English class names, by the inflect package: "two dogs" holds "dog", "a motorbike" holds "motorbikes".

The forms are further spellings of a class while captions are looked up, so a search stays a look-up of whole names. A
form that is a word of its own ("glasses", "flies") finds captions of that too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

from rag_clip.data import LabelSet
from rag_clip.words import spoken, words_of


def with_plurals(labels: LabelSet) -> LabelSet:
    """Return the label set with the plural and the singular of each spelling among the synonyms of its class.

    Forms that are spellings of another class are left out. Spellings with characters beyond ASCII, or without a letter
    at the end, have none. Raises ImportError without the inflect package.
    """
    forms = _forms()
    spelled = [(spoken(name), *synonyms) for name, synonyms in zip(labels.names, labels.synonyms, strict=True)]
    taken = {_folded(spelling) for own in spelled for spelling in own}
    added = (sorted({form for spelling in own for form in forms(spelling)} - taken) for own in spelled)
    return replace(labels, synonyms=tuple((*own[1:], *new) for own, new in zip(spelled, added, strict=True)))


def _folded(spelling: str) -> str:
    return " ".join(words_of(spelling))


@cache
def _forms() -> Callable[[str], set[str]]:
    """Return a function that lists the plural and the singular of a spelling, which may be no words at all."""
    try:
        import inflect
    except ImportError as error:
        raise ImportError(
            "plurals of names are formed by the inflect package; install rag-clip[plurals], or leave plurals out"
        ) from error
    engine = inflect.engine()

    def forms(spelling: str) -> set[str]:
        if not spelling.isascii() or not spelling[-1:].isalpha():
            return set()
        words = _folded(spelling)
        return {form for form in (engine.plural_noun(words), engine.singular_noun(words)) if form} - {words}

    return forms

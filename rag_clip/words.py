"""Folded words of a text: the one way to find, remove, match and count names in captions.

A word is a run of letters, marks and digits, compared after NFKC normalisation and case folding. An apostrophe
separates words, and a possessive 's is not a word. Han, kana, Thai, Lao, Khmer and Myanmar have no spaces between
words: there each letter is a word.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache

APOSTROPHES = "'`´‘’ʻʼ′＇"
_POSSESSIVE = re.compile(rf"[{APOSTROPHES}][sS]\b")
_BETWEEN_PLAIN = re.compile(r"(?:['`]s\b|[\W_])+", re.ASCII)
_PLAIN_WORD = re.compile(r"['`][sS]\b|([^\W_]+)", re.ASCII)
_SPACED_WORD = re.compile(rf"{_POSSESSIVE.pattern}|([^\W_]+)")
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
# Soft hyphens, joiners and variation selectors occur inside words but are not part of them.
_INVISIBLE = "\u00ad\u200c\u200d\u2060\ufe00-\ufe0f\ufeff"
_DROPPED = re.compile(f"[{_INVISIBLE}]")
_BEYOND = r"\U00020000-\U0003ffff"  # separate, since re matches a character class within 16 bits much faster

_ID = re.compile(r" \(id .+\)$")

Place = tuple[int, int]
_Words = tuple[str, ...]


def spoken(name: str) -> str:
    """Return a class name without the id that distinguishes equal names: "crane" for "crane (id n1)"."""
    return _ID.sub("", name)


def words_of(text: str) -> list[str]:
    """Split a text into its folded words."""
    if text.isascii():
        return _BETWEEN_PLAIN.sub(" ", text.lower()).split()
    return [word for word, _ in _spelled(text)]


def holds_any(phrases: Sequence[str]) -> Callable[[str], bool]:
    """Return the predicate of texts that contain one of the phrases word by word; a phrase without words never does."""
    spaced = [f" {' '.join(words)} " for phrase in phrases if (words := words_of(spoken(phrase)))]
    needles = [(max(needle.split(), key=len), needle) for needle in spaced]

    def holds(text: str) -> bool:
        seen = _seen(text)
        # Most texts do not even contain the letters of a longest word; this test is ten times faster than splitting.
        likely = [needle for longest, needle in needles if longest in seen]
        if not likely:
            return False
        if text.isascii() and any(needle in f" {seen} " for needle in likely):  # its words stand between spaces
            return True
        words = f" {' '.join(words_of(text))} "
        return any(needle in words for needle in likely)

    return holds


def spans_of(phrases: Sequence[str], *, endings: bool = False) -> Callable[[str], list[Place]]:
    """Return a function that lists the occurrences of the phrases in a text, as (start, end) in characters.

    Of overlapping phrases the first in the text counts, and of those with the same start the longest. Symbols before
    the first or after the last word of a phrase are included, such as the "++" of "C++", and so is a possessive 's.
    With `endings`, the last word may also end in -s or -es; then neither the ending nor a possessive 's is included.
    """
    rims: dict[_Words, list[tuple[str, str]]] = {}
    for phrase in map(spoken, phrases):
        if words := tuple(words_of(phrase)):
            rims.setdefault(words, []).append(_rim(phrase))
    sizes = sorted({len(words) for words in rims}, reverse=True)
    rimmed = any(rim != ("", "") for spelled in rims.values() for rim in spelled)
    longest, plain = {max(words, key=len) for words in rims}, _plain_phrases(rims, endings)

    def spans(text: str) -> list[Place]:
        seen = _seen(text)
        if not any(word in seen for word in longest):
            return []
        if text.isascii():
            matched = [match.span() for match in plain.finditer(text)]
            if not rimmed and "'s" not in seen and "`s" not in seen:
                return matched
            return [
                _with_rim(text, *at, rims[tuple(words_of(text[slice(*at)]))], possessive=not endings) for at in matched
            ]
        spelled, found, position = list(_spelled(text)), [], 0
        while position < len(spelled):
            matches = (_phrase_of(spelled[position : position + size], rims, endings) for size in sizes)
            words, (start, end) = next((match for match in matches if match), ((), (0, 0)))
            if words:
                found.append(_with_rim(text, start, end, rims[words], possessive=not endings))
            position += len(words) or 1
        return found

    return spans


def _plain_phrases(phrases: Iterable[_Words], endings: bool) -> re.Pattern[str]:
    """Return a pattern that finds in ASCII texts what `_phrase_of` finds in their words, ten times faster."""
    order = sorted(phrases, key=lambda words: (len(words), len(words[-1])), reverse=True)
    spelled = (
        r"(?:['`]s\b|[\W_])+".join(r"(?<!['`])s" if word == "s" else word for word in words)
        for words in order
        if all(word.isascii() for word in words)
    )
    either = "|".join(spelled) or "(?!)"
    ending = "(?:e?s)?" if endings else ""
    return re.compile(rf"(?<![^\W_])(?:{either})(?={ending}(?![^\W_]))", re.ASCII | re.IGNORECASE)


def _phrase_of(
    spelled: Sequence[tuple[str, Place]], phrases: Mapping[_Words, object], endings: bool
) -> tuple[_Words, Place] | None:
    """Return the phrase that these adjacent words form, and its (start, end) in the text; None for no phrase."""
    words, start, end = tuple(word for word, _ in spelled), spelled[0][1][0], spelled[-1][1][1]
    if words in phrases:
        return words, (start, end)
    for ending in ("s", "es") if endings else ():
        shorter = (*words[:-1], words[-1].removesuffix(ending))
        if shorter != words and shorter in phrases:
            return shorter, (start, end - len(ending))
    return None


def _rim(phrase: str) -> tuple[str, str]:
    places = [place for _, place in _spelled(phrase)]
    return phrase[: places[0][0]].strip(), phrase[places[-1][1] :].strip()


def _with_rim(text: str, start: int, end: int, rims: Sequence[tuple[str, str]], *, possessive: bool) -> Place:
    before = max((len(left) for left, _ in rims if text.endswith(left, 0, start)), default=0)
    after = max((len(right) for _, right in rims if text.startswith(right, end)), default=0)
    mark = _POSSESSIVE.match(text, end) if possessive else None
    return start - before, max(end + after, mark.end() if mark else 0)


def _spelled(text: str) -> Iterator[tuple[str, Place]]:
    """Yield the words of a text with their (start, end); words from a single character, such as "½", share its span."""
    plain = text.isascii()
    pattern = _PLAIN_WORD if plain else _any_word() if _special().search(text) else _SPACED_WORD
    for token in pattern.finditer(text):
        if token[1]:
            for word in (token[1].lower(),) if plain else _folded(token[1]):
                yield word, token.span(1)


@lru_cache(1 << 16)
def _folded(token: str) -> _Words:
    letters = unicodedata.normalize("NFKC", _DROPPED.sub("", token)).casefold()
    return tuple(piece[1] for piece in _any_word().finditer(letters) if piece[1])


def _seen(text: str) -> str:
    """Return a quick folding of the whole text, which contains each of its folded words as a substring."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", _DROPPED.sub("", text)).casefold()


@cache
def _marks() -> str:
    return "".join(chr(code) for code in range(0x300, 1 << 16) if unicodedata.category(chr(code))[0] == "M")


@cache
def _special() -> re.Pattern[str]:
    """Return a pattern of the characters for which a word is not simply a run of letters and digits."""
    return re.compile(f"[{_marks()}{_INVISIBLE}{_UNSPACED}ʻʼ]|[{_BEYOND}]")


@cache
def _any_word() -> re.Pattern[str]:
    """Return a pattern that matches a word of any script as group 1, or a possessive 's without a group."""
    unspaced = rf"(?:[{_UNSPACED}]|[{_BEYOND}])"
    letter = rf"(?!{unspaced})[^\W_ʻʼ]"
    inside = rf"(?:{letter}|(?!{unspaced})[{_marks()}{_INVISIBLE}])"
    return re.compile(rf"{_POSSESSIVE.pattern}|({unspaced}[\u3099\u309a]?|{letter}{inside}*)")


def near_names(name: str, known: Iterable[str], *, most: int = 3, cutoff: float = 0.6) -> list[str]:
    """Return up to `most` of the `known` names, nearest first; case, hyphens and underscores are ignored."""
    forms: dict[str, list[str]] = {}
    for each in known:
        forms.setdefault(_bare(each), []).append(each)
    close = difflib.get_close_matches(_bare(name), forms, n=most, cutoff=cutoff)
    return [each for form in close for each in forms[form]][:most]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "did you mean A, B or C? " for the nearest names; '' where none is near."""
    close = near_names(name, known)
    if not close:
        return ""
    return f"did you mean {' or '.join([', '.join(close[:-1])] * (len(close) > 1) + close[-1:])}? "


def _bare(name: str) -> str:
    return name.casefold().replace("-", "").replace("_", "").replace(" ", "")

"""Words of a text, folded: the one way in which names are found in captions, dropped, matched and counted.

A word is a run of letters, marks and digits, compared after NFKC and without case; an apostrophe is a break, and a
possessive 's is no word. Han, kana, Thai, Lao, Khmer and Myanmar put no spaces between words: each letter is one.
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
# Soft hyphens, joiners and variation selectors are written inside words and are no part of them.
_INVISIBLE = "\u00ad\u200c\u200d\u2060\ufe00-\ufe0f\ufeff"
_DROPPED = re.compile(f"[{_INVISIBLE}]")
_BEYOND = r"\U00020000-\U0003ffff"  # apart, since re looks up a class within 16 bits at once and scans any other

_ID = re.compile(r" \(id .+\)$")

Place = tuple[int, int]
_Words = tuple[str, ...]


def spoken(name: str) -> str:
    """Return a class name without the id that tells it from another of the same name: "crane" of "crane (id n1)"."""
    return _ID.sub("", name)


def words_of(text: str) -> list[str]:
    """Split a text into its folded words."""
    if text.isascii():
        return _BETWEEN_PLAIN.sub(" ", text.lower()).split()
    return [word for word, _ in _spelled(text)]


def holds_any(phrases: Sequence[str]) -> Callable[[str], bool]:
    """Return the predicate of texts that hold one of the phrases word by word; a phrase without words is in none."""
    spaced = [f" {' '.join(words)} " for phrase in phrases if (words := words_of(spoken(phrase)))]
    needles = [(max(needle.split(), key=len), needle) for needle in spaced]

    def holds(text: str) -> bool:
        seen = _seen(text)
        # Most texts hold no such word even inside another, which is ten times cheaper to see than their words.
        likely = [needle for longest, needle in needles if longest in seen]
        if not likely:
            return False
        words = f" {' '.join(words_of(text))} "
        return any(needle in words for needle in likely)

    return holds


def spans_of(phrases: Sequence[str], *, endings: bool = False) -> Callable[[str], list[Place]]:
    """Return a function that lists where a text holds one of the phrases, as (start, end) in its characters.

    Of phrases that overlap the first in the text counts, and of those that begin together the longest. What a phrase
    has before its first word and after its last is taken along, as the "++" of "C++", and so is a possessive 's.
    With `endings` the last word may end in -s or -es; that, and a possessive 's, stay outside.
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
            places = [match.span() for match in plain.finditer(text)]
            if not rimmed and "'s" not in seen and "`s" not in seen:
                return places
            return [
                _with_rim(text, *at, rims[tuple(words_of(text[slice(*at)]))], possessive=not endings) for at in places
            ]
        spelled, found, place = list(_spelled(text)), [], 0
        while place < len(spelled):
            held = (_held(spelled[place : place + size], rims, endings) for size in sizes)
            words, (start, end) = next((each for each in held if each), ((), (0, 0)))
            if words:
                found.append(_with_rim(text, start, end, rims[words], possessive=not endings))
            place += len(words) or 1
        return found

    return spans


def _plain_phrases(phrases: Iterable[_Words], endings: bool) -> re.Pattern[str]:
    """Match in ASCII texts what `_held` tells of their words, ten times faster."""
    order = sorted(phrases, key=lambda words: (len(words), len(words[-1])), reverse=True)
    spelled = (
        r"(?:['`]s\b|[\W_])+".join(r"(?<!['`])s" if word == "s" else word for word in words)
        for words in order
        if all(word.isascii() for word in words)
    )
    either = "|".join(spelled) or "(?!)"
    ending = "(?:e?s)?" if endings else ""
    return re.compile(rf"(?<![^\W_])(?:{either})(?={ending}(?![^\W_]))", re.ASCII | re.IGNORECASE)


def _held(
    spelled: Sequence[tuple[str, Place]], phrases: Mapping[_Words, object], endings: bool
) -> tuple[_Words, Place] | None:
    """Return the phrase that these neighbouring words are, and its place; None where they are none."""
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
    """Yield the words of a text with their places; the words that one sign stands for, as "½", share its place."""
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
    """Fold a text as a whole, quickly: each of its words is somewhere in it."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", _DROPPED.sub("", text)).casefold()


@cache
def _marks() -> str:
    return "".join(chr(code) for code in range(0x300, 1 << 16) if unicodedata.category(chr(code))[0] == "M")


@cache
def _special() -> re.Pattern[str]:
    """Match what makes a word more than a run of letters and digits."""
    return re.compile(f"[{_marks()}{_INVISIBLE}{_UNSPACED}ʻʼ]|[{_BEYOND}]")


@cache
def _any_word() -> re.Pattern[str]:
    """Match a word of any script as group 1, or a possessive 's without a group."""
    unspaced = rf"(?:[{_UNSPACED}]|[{_BEYOND}])"
    letter = rf"(?!{unspaced})[^\W_ʻʼ]"
    inside = rf"(?:{letter}|(?!{unspaced})[{_marks()}{_INVISIBLE}])"
    return re.compile(rf"{_POSSESSIVE.pattern}|({unspaced}[\u3099\u309a]?|{letter}{inside}*)")


def near_names(name: str, known: Iterable[str], *, most: int = 3, cutoff: float = 0.6) -> list[str]:
    """Return up to `most` of the `known` names, nearest first; capitals, - and _ do not count."""
    forms: dict[str, list[str]] = {}
    for each in known:
        forms.setdefault(_bare(each), []).append(each)
    close = difflib.get_close_matches(_bare(name), forms, n=most, cutoff=cutoff)
    return [each for form in close for each in forms[form]][:most]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "did you mean A, B or C? " for the nearest names, or nothing where none is near."""
    close = near_names(name, known)
    if not close:
        return ""
    return f"did you mean {' or '.join([', '.join(close[:-1])] * (len(close) > 1) + close[-1:])}? "


def _bare(name: str) -> str:
    return name.casefold().replace("-", "").replace("_", "").replace(" ", "")

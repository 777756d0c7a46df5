"""Known names that are spelt like a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def near_names(name: str, known: Iterable[str], *, most: int = 3, cutoff: float = 0.6) -> list[str]:
    """Return up to `most` of the `known` names, nearest first; capitals, - and _ do not count."""
    forms: dict[str, list[str]] = {}
    for each in known:
        forms.setdefault(_fold(each), []).append(each)
    close = difflib.get_close_matches(_fold(name), forms, n=most, cutoff=cutoff)
    return [each for form in close for each in forms[form]][:most]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "did you mean A, B or C? " for the nearest names, or nothing where none is near."""
    close = near_names(name, known)
    if not close:
        return ""
    return f"did you mean {' or '.join([', '.join(close[:-1])] * (len(close) > 1) + close[-1:])}? "


def _fold(name: str) -> str:
    return name.casefold().replace("-", "").replace("_", "").replace(" ", "")

"""Learn a byte-pair encoding from captions, in the file format of open_clip's SimpleTokenizer.

Sennrich, Haddow and Birch, 2016, arXiv 1508.07909: repeatedly merge the most frequent pair of adjacent symbols. The
last letter of a word carries the end-of-word mark.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

_WORD = re.compile(r"[a-z]+")


def _words(caption: str) -> list[str]:
    return _WORD.findall(caption.lower())


def learn_merges(
    captions: Iterable[str], *, count: int, split: Callable[[str], Iterable[str]] = _words
) -> list[tuple[str, str]]:
    """Return up to `count` merges, the most frequent first, ties in order of spelling.

    `split` returns the words of a caption, by default its English words in lower case.
    """
    frequency = Counter(word for caption in captions for word in split(caption))
    words = {word: (*word[:-1], word[-1] + "</w>") for word in frequency}
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, symbols in words.items():
            for pair in pairwise(symbols):
                pairs[pair] += frequency[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {word: _merge(symbols, best) for word, symbols in words.items()}
    return merges


def _merge(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return tuple(merged)


def write_merges(merges: Iterable[tuple[str, str]], path: Path) -> None:
    """Write merges as a gzip file with a version line, with the same bytes every time."""
    text = "\n".join(["#version: rag-clip demo", *(" ".join(pair) for pair in merges)])
    path.write_bytes(gzip.compress(text.encode(), mtime=0))

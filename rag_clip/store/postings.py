"""The postings of an index: which captions hold a word, in arrays beside the index that are mapped into memory.

They answer the one question of the query layer that an engine answers slowly, captions that hold a phrase, ranked by
similarity, BM25 or both, as `Store.search(holding=...)` does: the same captions in the same order. Only cosines that
differ by less than float32 resolves, ties of over 10,000 captions, and captions with vowel signs (as in Hindi, whose
words are cut at them) may come in another order. A million captions of nine words take 175 MB, and the vectors 4 bytes
per number. Rows are in the order of ids, so ties are settled by the order of rows.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rag_clip.data import Hit
from rag_clip.files.sealed import file_checksum
from rag_clip.store.lexical import level
from rag_clip.store.ranking import RRF_CONSTANT
from rag_clip.store.schema import CollectionSchema

VERSION = 1
FACTS = "postings.json"
ARRAYS = ("ids", "source_rows", "lengths", "starts", "rows", "counts")
TEXTS = ("texts", "sources", "words")
VECTORS = "vectors.npy"
FUSED_DEPTH = 100
COSINE_ROWS = 1 << 15
HITS_AT_ONCE = 256
_WORD = re.compile(r"[^\W_]+")


class Postings:
    """Opened postings; a row is the number of a caption in the order of ids."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], schema: CollectionSchema) -> None:
        self.count = int(facts["count"])
        arrays = {name: _mapped(folder / f"{name}.npy") for name in ARRAYS}
        self._ids, self._source_rows, self._lengths = (arrays[name] for name in ("ids", "source_rows", "lengths"))
        self._starts, self._rows, self._counts = (arrays[name] for name in ("starts", "rows", "counts"))
        self._texts, self._sources, self._words = (_read_texts(folder, name) for name in TEXTS)
        self._vectors = _mapped(folder / VECTORS)
        self._wordy = int(facts["wordy"])  # as in the engines, captions without words count for nothing
        self._settings, self._sparse = schema.lexical, schema.ranks_sparse
        mean = float(facts["words"]) / max(self._wordy, 1)
        self._mean_length = self._settings.average_length if self._sparse else mean

    def search(
        self, phrases: Sequence[str], *, text: str | None, vector: np.ndarray | None, limit: int
    ) -> Iterator[Hit]:
        """Yield at most `limit` captions that hold all words of a phrase, best first; unread hits cost little.

        phrases: their words, separated by spaces.
        text: ranks by BM25, where any word may match.
        vector: a unit vector [d]; ranks by similarity. With both, the two rankings are fused by reciprocal rank.
        """
        rows = self.holding(phrases)
        if vector is None or text is None:
            scores = self._cosines(rows, vector) if vector is not None else self._bm25(rows, text or "")
            best = _best(scores, limit)
            best = best if vector is not None else best[scores[best] > 0]
        else:
            depth, scores = max(limit, FUSED_DEPTH), np.zeros(len(rows))
            relevance = self._bm25(rows, text)
            dense, lexical = _best(self._cosines(rows, vector), depth), _best(relevance, depth)
            for ranking in (dense, lexical[relevance[lexical] > 0]):
                scores[ranking] += 1 / (RRF_CONSTANT + np.arange(1, len(ranking) + 1))
            best = _best(scores, limit)
            best = best[scores[best] > 0]
        return self._hits(rows[best], scores[best])

    def holding(self, phrases: Sequence[str]) -> np.ndarray:
        """Return the rows, ascending, of captions with all words of at least one of the phrases."""
        found = [self._with_all(phrase.split(" ")) for phrase in phrases]
        return found[0] if len(found) == 1 else reduce(np.union1d, found)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Return float32 unit vectors [n, d]."""
        return np.asarray(self._vectors[rows], np.float32)

    def captions(self, rows: np.ndarray) -> Iterator[tuple[str, str, str]]:
        """Yield the id, text and source of rows."""
        sources = self._sources.take(pa.array(self._source_rows[rows])).to_pylist()
        texts = self._texts.take(pa.array(rows)).to_pylist()
        yield from zip((name.decode() for name in self._ids[rows].tolist()), texts, sources, strict=True)

    def _hits(self, rows: np.ndarray, scores: np.ndarray) -> Iterator[Hit]:
        for start in range(0, len(rows), HITS_AT_ONCE):
            part = slice(start, start + HITS_AT_ONCE)
            for (name, text, source), score in zip(self.captions(rows[part]), scores[part].tolist(), strict=True):
                yield Hit(name, text, score, source)

    def _with_all(self, words: Sequence[str]) -> np.ndarray:
        lists = sorted((self._rows[self._span(word)] for word in dict.fromkeys(words)), key=len)
        return reduce(lambda rows, other: rows[_find(other, rows)[1]], lists)

    def _span(self, word: str) -> slice:
        """Return where the postings of a word lie."""
        code = bisect_left(self._words, word, key=lambda stored: stored.as_py())
        if code == len(self._words) or self._words[code].as_py() != word:
            return slice(0, 0)
        return slice(int(self._starts[code]), int(self._starts[code + 1]))

    def _bm25(self, rows: np.ndarray, text: str) -> np.ndarray:
        """Return the BM25 of rows, float32 [n], as the engine ranks by it; a repeated word counts once."""
        k, b = self._settings.k, self._settings.b
        scores, norms = np.zeros(len(rows)), k * (1 - b + b * self._lengths[rows] / self._mean_length)
        for word in dict.fromkeys(_WORD.findall(text.lower())):
            span = self._span(word)
            holders = span.stop - span.start
            places, held = _find(self._rows[span], rows)
            counts = self._counts[span][places[held]].astype(np.float64)
            rarity = np.log1p((self._wordy - holders + 0.5) / (holders + 0.5))
            scores[held] += rarity * counts * (k + 1) / (counts + norms[held])
        return level(scores) if self._sparse else scores.astype(np.float32)

    def _cosines(self, rows: np.ndarray, vector: np.ndarray) -> np.ndarray:
        # Not a matrix product: there equal vectors get unequal cosines, by their place in a block.
        query = np.ascontiguousarray(vector, np.float32)
        blocks = (rows[start : start + COSINE_ROWS] for start in range(0, len(rows), COSINE_ROWS))
        return np.concatenate([np.einsum("nd,d->n", self.vectors(block), query) for block in blocks] or [np.empty(0)])


def split(texts: pa.Array) -> pa.ListArray:
    """Split texts into words as the engines do: runs of letters and digits, lower-case; [""] for a text without any."""
    spaced = pc.replace_substring_regex(pc.utf8_lower(texts), r"[^\pL\pN]+", " ")
    return pc.split_pattern(pc.utf8_trim(spaced, " "), " ")


def open_postings(folder: Path, *, key: str, count: int, schema: CollectionSchema) -> Postings | None:
    """Open the postings in a folder; None where there are none, they are damaged, or not of this key and `count`."""
    try:
        facts = json.loads((folder / FACTS).read_bytes())
        if (facts["version"], facts["key"], facts["count"]) != (VERSION, key, count):
            return None
        for name, (size, checksum) in facts["files"].items():
            file = folder / name
            if file.stat().st_size != size or (name != VECTORS and file_checksum(file) != checksum):
                return None
        return Postings(folder, facts, schema)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _read_texts(folder: Path, name: str) -> pa.LargeStringArray:
    offsets, path = _mapped(folder / f"{name}.npy"), folder / f"{name}.utf8"
    content = np.memmap(path, np.uint8, "r") if path.stat().st_size else b""
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(content))


def _mapped(path: Path) -> np.ndarray:
    """Map an array into memory; a plain view, since looking things up in a `memmap` is slower."""
    return np.load(path, mmap_mode="r").view(np.ndarray)  # type: ignore[no-any-return]


def _find(sorted_rows: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where each wanted row would be among the sorted ones, and whether it is there."""
    places = np.searchsorted(sorted_rows, wanted)
    places[places == len(sorted_rows)] = 0
    held = sorted_rows[places] == wanted if len(sorted_rows) else np.zeros(len(wanted), bool)
    return places, held


def _best(scores: np.ndarray, limit: int) -> np.ndarray:
    """Return the places of the `limit` largest scores, largest first, equal ones in their order."""
    if len(scores) <= limit:
        return np.argsort(-scores, kind="stable")
    least = np.partition(scores, len(scores) - limit)[len(scores) - limit]
    places = np.flatnonzero(scores >= least)
    return places[np.argsort(-scores[places], kind="stable")[:limit]]

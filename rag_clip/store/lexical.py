"""Lexical search by sparse vectors: BM25 as a named vector, made on our side by one tokenizer for every engine.

    score(query, caption) = sum_w idf(w) * f (k + 1) / (f + k (1 - b + b L / average_length))

over the distinct words w of the query, with f the times that w stands in the caption and L its number of words
(Robertson et al., TREC 1994). The vector holds the right factor; the engine multiplies by
idf(w) = ln(1 + (N - n + 0.5) / (n + 0.5)), with n of N captions that hold w. Words are hashed to 32 bits. The tokenizer
`word` cuts at all that is no letter or digit; `multilingual` also cuts Chinese, Japanese and Thai by a dictionary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import qdrant_edge as edge

from rag_clip.store.interface import Ranking
from rag_clip.store.schema import CollectionSchema, TextIndex

BM25 = "bm25"
TIE = 2e-6  # of the score; engines add float32 in different orders, so their sums differ by some 1e-7

Sparse = tuple[list[int], list[float]]


class Lexical:
    """The sparse vectors of texts, by the settings of a schema."""

    def __init__(self, schema: CollectionSchema) -> None:
        index, settings = schema.payload["text"], schema.lexical
        assert isinstance(index, TextIndex), "payload.text is a text index, as the schema checks"
        self._model = edge.Bm25(
            edge.Bm25Config(
                k=settings.k,
                b=settings.b,
                avg_len=settings.average_length,
                tokenizer=getattr(edge.TokenizerType, index.tokenizer.capitalize()),
                lowercase=index.lowercase,
                stopwords=edge.StopwordsSet(),
                stemmer=edge.DisabledStemmer(),
            )
        )

    def documents(self, texts: Iterable[str]) -> list[Sparse]:
        """Return indices and values of each caption; none for a text without words."""
        return [_plain(self._model.embed_document(text)) for text in texts]

    def queries(self, texts: Iterable[str]) -> list[Sparse]:
        """Return indices and values of each query: 1 for every distinct word."""
        return [_plain(self._model.embed_query(text)) for text in texts]


def settle_scores(ranking: Ranking) -> Ranking:
    """Give equal scores to captions that tie but for rounding, so that they tie in every engine."""
    settled = level(np.array([score for _id, score, _text, _source in ranking]))
    return [
        (name, score, text, source) for (name, _, text, source), score in zip(ranking, settled.tolist(), strict=True)
    ]


def level(scores: np.ndarray) -> np.ndarray:
    """Return float64 scores where each that is less than TIE below the next larger one equals that one."""
    values = np.asarray(scores, np.float64)
    order = np.argsort(-values, kind="stable")
    falling = values[order]
    first = np.r_[True, falling[1:] < falling[:-1] * (1 - TIE)][: len(values)]
    settled = np.empty_like(values)
    settled[order] = falling[np.flatnonzero(first)][np.cumsum(first) - 1] if len(values) else falling
    return settled


def spread(rankings: Sequence[Ranking], queries: Sequence[Sparse]) -> list[Ranking]:
    """Return a ranking per query, empty for one without words, from those of the others."""
    found = iter(rankings)
    return [settle_scores(next(found)) if indices else [] for indices, _values in queries]


def _plain(vector: edge.SparseVector) -> Sparse:
    return list(vector.indices), list(vector.values)

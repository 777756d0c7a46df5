"""Find images for classes in an index, with their vectors, hashes and noise."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import normalize

from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Hit, Prompts
from rag_clip.display import counted
from rag_clip.progress import Progress, ProgressEvent, Report
from rag_clip.prompts.retrieved import contains_phrase
from rag_clip.protocols import Encoder
from rag_clip.store import Store
from rag_clip.support.retrieved import Candidates, ImageSearch, Query, merge_hits, plan_queries

QUERIES_AT_ONCE = 64


def find_candidates(
    prompts: Prompts,
    classifier: ZeroShot,
    store: Store,
    encoder: Encoder,
    *,
    asked: ImageSearch,
    progress: Progress | None = None,
) -> Candidates:
    """Return the images of the store for each class that are asked for, with their vectors, hashes and noise.

    prompts: the classes and their texts.
    classifier: its class weights are the queries of a search by "class".
    store: an index of images.
    encoder: the one that the index was built with.
    asked: how many, and what to search with: the "class" weights, its "texts", or its names in "captions". Captions
        must contain the whole name or a whole synonym.
    progress: collects seconds per stage, and passes progress events on.

    Raises ValueError where images have no hash.
    """
    progress = progress or Progress()
    queries = plan_queries(prompts, asked)
    vectors = None
    if asked.by == "class":
        vectors = normalize(classifier.weights.float()).cpu().numpy()
    elif asked.by == "texts":
        with progress.stage("encode texts"):
            vectors = encoder.encode_text([query.text for query in queries]).float().cpu().numpy()
    with progress.stage("search"):
        hits = _search(queries, vectors, store, progress.report)
    by_class = [
        [found for query, found in pairs]
        for _, pairs in itertools.groupby(zip(queries, hits, strict=True), key=lambda pair: pair[0].row)
    ]
    if asked.by == "captions":
        by_class = [_saying(prompts, row, found) for row, found in enumerate(by_class)]
    merged = [merge_hits(found)[: asked.candidates] for found in by_class]
    with progress.stage("look up"):
        return _look_up(merged, store)


def _search(queries: Sequence[Query], vectors: np.ndarray | None, store: Store, report: Report) -> list[list[Hit]]:
    hits: list[list[Hit]] = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        asked = queries[rows]
        most = max(query.budget for query in asked)
        if vectors is None:
            found = store.search(texts=[query.text for query in asked], limit=most, mode="lexical")
        else:
            found = store.search(vectors=vectors[rows], limit=most, vector="image")
        hits += [each[: query.budget] for query, each in zip(asked, found, strict=True)]
        report(ProgressEvent("search images", len(hits), len(queries), "queries"))
    return hits


def _saying(prompts: Prompts, row: int, found: Sequence[Sequence[Hit]]) -> list[list[Hit]]:
    """Keep captions that contain a whole name; BM25 also returns captions that share only a word with it."""
    says = contains_phrase(prompts.labels.names[row], prompts.labels.synonyms[row])
    return [[hit for hit in hits if says(hit.text)] for hits in found]


def _look_up(merged: Sequence[Sequence[Hit]], store: Store) -> Candidates:
    hits = [(row, hit) for row, found in enumerate(merged) for hit in found]
    ids = list(dict.fromkeys(hit.id for _, hit in hits))
    payload, vectors = store.payload(ids), store.vectors(ids, vector="image")
    bare = [name for name in ids if not {"sha256", "phash"} <= payload.get(name, {}).keys()]
    if bare:
        raise ValueError(
            f"the index at {store.location} holds {counted(len(bare), 'image')} without a hash, such as {bare[0]}; "
            "build it with `rag-clip index images`"
        )
    matrix = np.stack([vectors[hit.id] for _, hit in hits]) if hits else np.zeros((0, store.card.dim), np.float32)
    return Candidates(
        np.array([row for row, _ in hits], np.int64),
        tuple(hit.id for _, hit in hits),
        torch.from_numpy(matrix.astype(np.float32)),
        tuple(payload[hit.id]["sha256"] for _, hit in hits),
        np.array([int(payload[hit.id]["phash"], 16) for _, hit in hits], np.uint64),
        np.array([payload[hit.id].get("noise", np.nan) for _, hit in hits], np.float64),
        tuple(hit.source for _, hit in hits),
    )

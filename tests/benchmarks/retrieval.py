"""Seconds of `gather`: 100 captions for each of 1,000 labels among 1,000,000 generated captions, then two recipes.

    python tests/benchmarks/retrieval.py FOLDER [--captions 1000000] [--width 128] [--labels 1000] [--limit 100]
        [--rounds 3]

FOLDER keeps the index, so that another run measures at once. A caption is a sentence of made-up words, nouns following
Zipf's law; its vector is the sum of a random vector for each word, and noise. The labels are nouns from the commonest
to the rarest. The recipes are Retrieval() and the default of `enhance`, whose texts are encoded by a look-up: what a
real encoder takes for them is tests/benchmarks/text_encoding.py's to say.
"""

import argparse
import os
import re
import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate, product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.nn.functional import embedding_bag, normalize

from rag_clip.data import Fingerprint, LabelSet
from rag_clip.progress import Progress
from rag_clip.prompts.evidence import gather
from rag_clip.prompts.recipe import load_recipe
from rag_clip.prompts.retrieval import Retrieval
from rag_clip.store import caption_id, create_store, load_schema, open_store

BATCH_ROWS = 8192
NOISE = 0.5
FINGERPRINT = Fingerprint("generated", "", "0", "")
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
SLOTS = {"adjective": 200, "noun": 20_000, "verb": 100, "place": 500}
WORDS = {
    slot: ["".join(parts) + slot[0] for parts, _number in zip(product(SYLLABLES, repeat=4), range(count), strict=False)]
    for slot, count in SLOTS.items()
}


def word_vectors(width: int) -> dict[str, np.ndarray]:
    """Return a random vector of about unit length for each word, [words, width] by slot."""
    generator = np.random.default_rng(0)
    shapes = {slot: (count, width) for slot, count in SLOTS.items()}
    return {slot: generator.standard_normal(shape, np.float32) / width**0.5 for slot, shape in shapes.items()}


def captions(count: int, width: int) -> Iterator[pa.RecordBatch]:
    """Yield generated captions as `Store.upsert` takes them."""
    generator, vectors = np.random.default_rng(1), word_vectors(width)
    common = 1 / np.arange(10, SLOTS["noun"] + 10)
    for start in range(0, count, BATCH_ROWS):
        rows = min(BATCH_ROWS, count - start)
        drawn = {slot: generator.integers(0, words, rows) for slot, words in SLOTS.items()}
        drawn["noun"] = generator.choice(SLOTS["noun"], rows, p=common / common.sum())
        matrix = NOISE * generator.standard_normal((rows, width), np.float32) / width**0.5
        for slot, words in drawn.items():
            matrix += vectors[slot][words] * (2 if slot == "noun" else 1)
        columns = [[WORDS[slot][word] for word in drawn[slot]] for slot in SLOTS]
        texts = [f"a {a} {n} {v} in {p}, {start + row}" for row, (a, n, v, p) in enumerate(zip(*columns, strict=True))]
        yield pa.record_batch(
            {
                "id": [caption_id("bench", text) for text in texts],
                "text": texts,
                "source": ["bench"] * rows,
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), width),
            }
        )


def build(folder: Path, count: int, width: int) -> None:
    """Build the index with the schema that the package ships."""
    begun = time.perf_counter()
    with create_store(folder, schema=load_schema(), encoder=FINGERPRINT, dim=width) as store:
        for batch in captions(count, width):
            store.upsert(batch)
        loaded = time.perf_counter()
        store.optimise()
    print(f"{count} captions: load {loaded - begun:.0f} s, graph {time.perf_counter() - loaded:.0f} s")


class WordEncoder:
    """Gives a text the sum of its words' vectors; retrieval asks an encoder for nothing more."""

    scale, bias, trained_bias = 20.0, 0.0, False
    fingerprint = FINGERPRINT

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._rows = {word: row for row, word in enumerate(word for words in WORDS.values() for word in words)}
        self._vectors = torch.cat([torch.from_numpy(vectors) for vectors in word_vectors(dim).values()])

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Return unit rows [t, dim]; zeros for a text without a known word."""
        found = [[self._rows[word] for word in re.findall(r"\w+", text) if word in self._rows] for text in texts]
        starts = torch.tensor([0, *accumulate(map(len, found))][:-1])
        flat = torch.tensor([row for rows in found for row in rows])
        return normalize(embedding_bag(flat, self._vectors, starts, mode="sum"), dim=-1)


def engine_seconds() -> float:
    """Return the CPU seconds of the engine processes that have ended; on a busy machine steadier than the clock."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def opening_seconds(folder: Path) -> float:
    """Return the CPU seconds of an engine that only opens the index and closes it."""
    spent = engine_seconds()
    with open_store(folder):
        pass
    return engine_seconds() - spent


def measure(folder: Path, labels: LabelSet, retrieval: Retrieval, rounds: int) -> dict[str, Any]:
    """Gather captions for the labels, once to warm up and `rounds` times more."""
    opening, spent, walls, owners, captions = opening_seconds(folder), engine_seconds(), [], [], 0
    progress = Progress()
    with open_store(folder) as store:
        encoder: Any = WordEncoder(store.card.dim)
        for _round in range(rounds + 1):
            begun, cpu = time.perf_counter(), time.process_time()
            progress = Progress()
            captions = sum(
                map(len, gather(labels, encoder=encoder, store=store, retrieval=retrieval, progress=progress))
            )
            walls.append(time.perf_counter() - begun)
            owners.append(time.process_time() - cpu)
    return {
        "retrieval": f"{retrieval.search}, {retrieval.limit} of {retrieval.candidates}",
        "captions": captions,
        "first s": round(walls[0], 2),
        "median s": round(statistics.median(walls[1:]), 2),
        "our CPU s": round(statistics.mean(owners), 2),
        "engine CPU s": round((engine_seconds() - spent - opening) / (rounds + 1), 2),
        "stages": {stage: round(seconds, 2) for stage, seconds in progress.seconds.items()},
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """Parse, build where there is no index, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--captions", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not (options.folder / "card.json").exists():
        build(options.folder, options.captions, options.width)
    chosen = np.linspace(0, SLOTS["noun"] - 1, options.labels).astype(int)
    labels = LabelSet(tuple(WORDS["noun"][row] for row in chosen))
    with open_store(options.folder) as store:
        facts = store.info()
    print(
        f"{facts['count']} captions, {facts['indexed']} in a graph; {facts['card']['dim']} wide, {len(labels)} labels"
    )
    every = {"limit": options.limit, "candidates": options.limit}
    kinds = {search: Retrieval(search=search, **every) for search in ("dense", "lexical", "hybrid")}
    kinds |= {"Retrieval()": Retrieval(), "default recipe": load_recipe("default").retrieved or Retrieval()}
    for name, kind in kinds.items():
        print({"name": name, **measure(options.folder, labels, kind, options.rounds)}, flush=True)


if __name__ == "__main__":
    main()

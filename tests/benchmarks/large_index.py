"""Memory over time, seconds and disk while millions of generated captions are embedded, loaded, enhanced and checked.

    python tests/benchmarks/large_index.py FOLDER [--captions 10000000] [--width 32] [--labels 1000] [--keep]

The captions are those of retrieval.py, each with a number of its own, the worst case for the words of an index; an
encoder of summed word vectors costs next to nothing. Every five seconds the anonymous memory of this process and of
its engine is written to FOLDER/memory.csv with the stage. Ten million at width 32 need about 12 GB of disk.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from ingest import children, resident
from retrieval import SLOTS, WORDS, WordEncoder

from rag_clip.data import LabelSet
from rag_clip.pipelines.embed import embed_captions
from rag_clip.pipelines.enhance import enhance
from rag_clip.pipelines.load import load_shards
from rag_clip.prompts.recipe import load_recipe
from rag_clip.store import check_index, open_store
from rag_clip.testing import ToyEncoder

SECONDS = 5.0
CHUNK = 50_000


@dataclass(frozen=True, slots=True)
class WordSums(ToyEncoder):
    """Embeds a text as the sum of its words' vectors, and no image."""

    name: str = "word sums"

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Return unit rows [t, dim]; a text without a known word gets the first axis."""
        rows: torch.Tensor = _tower(self.dim).encode_text(texts)
        rows[~rows.any(1), 0] = 1
        return rows


@cache
def _tower(width: int) -> WordEncoder:
    return WordEncoder(width)


def main() -> None:
    """Parse, run the stages, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--captions", type=int, default=10_000_000)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--keep", action="store_true", help="Keep shards and index afterwards.")
    options = parser.parse_args()
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    with watched(folder / "memory.csv") as stage:
        measure(folder, options, stage)
    if not options.keep:
        for name in ("shards", "index"):
            shutil.rmtree(folder / name)


def measure(folder: Path, options: argparse.Namespace, stage: Callable[[str], None]) -> None:
    """Run the stages one after the other, and print a line for each."""
    encoder = WordSums(dim=options.width)
    captions = folder / "captions.parquet"
    stage("write")
    write_captions(captions, options.captions)
    stage("embed")
    show("embed", embed_captions([captions], shards=folder / "shards", encoder=encoder))
    captions.unlink()
    show("load", load_shards(folder / "shards", index=folder / "index", report=lambda event: stage(event.stage)))
    print({name: size(folder / name) for name in ("shards", "index", "index/postings")}, flush=True)
    chosen = np.linspace(0, SLOTS["noun"] - 1, options.labels).astype(int)
    labels, recipe = LabelSet(tuple(WORDS["noun"][row] for row in chosen)), load_recipe("default")
    for turn in ("first", "again"):
        stage(f"enhance {turn}")
        begun = time.perf_counter()
        made = enhance(labels, encoder=encoder, recipe=recipe, index=str(folder / "index"), report=lambda _event: None)
        texts = sum(map(len, made.texts))
        print(f"enhance {turn}: {len(labels)} labels, {texts} texts, {time.perf_counter() - begun:.1f} s", flush=True)
    stage("check")
    with open_store(folder / "index") as store:
        print(check_index(store, queries=100, k=100), flush=True)


def show(name: str, summary: Any) -> None:
    """Print the summary and the seconds of its stages."""
    print(name, summary, {stage: round(spent, 1) for stage, spent in summary.seconds.items()}, flush=True)


def size(folder: Path) -> int:
    """Return the bytes of all files below a folder, as they take room on the disk."""
    return sum(512 * path.stat().st_blocks for path in folder.rglob("*") if path.is_file())


def write_captions(path: Path, rows: int) -> None:
    """Write the captions of retrieval.py, whose words follow Zipf's law."""
    generator, common = np.random.default_rng(1), 1 / np.arange(10, SLOTS["noun"] + 10)
    names = {slot: np.array(words) for slot, words in WORDS.items()}
    with pq.ParquetWriter(path, pa.schema({"caption": pa.string()})) as writer:
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            drawn = {slot: names[slot][generator.integers(0, len(names[slot]), count)] for slot in SLOTS}
            drawn["noun"] = names["noun"][generator.choice(SLOTS["noun"], count, p=common / common.sum())]
            parts = zip(*(drawn[slot] for slot in SLOTS), strict=True)
            texts = [f"a {a} {n} {v} in {p}, {start + row}" for row, (a, n, v, p) in enumerate(parts)]
            writer.write_table(pa.table({"caption": texts}))


@contextmanager
def watched(path: Path) -> Iterator[Callable[[str], None]]:
    """Write memory over time to `path`; print the highest of each stage at the end."""
    now, over, begun = ["start"], threading.Event(), time.perf_counter()
    most: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def sample() -> None:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["seconds", "stage", "own MiB", "engine MiB"])
            while not over.wait(SECONDS):
                own, engine = resident("self", "RssAnon"), sum(resident(each, "RssAnon") for each in children())
                writer.writerow([round(time.perf_counter() - begun), now[0], round(own), round(engine)])
                file.flush()
                most[now[0]] = [max(most[now[0]][0], own), max(most[now[0]][1], engine)]

    watcher = threading.Thread(target=sample, daemon=True)
    watcher.start()
    try:
        yield lambda name: now.__setitem__(0, name)
    finally:
        over.set()
        watcher.join()
    print("highest anonymous memory in MiB, own and engine:", json.dumps(most), os.getloadavg())


if __name__ == "__main__":
    main()

"""Overhead of the load stage, share of the text tower in the embed stage, and memory of both over millions of captions.

    python tests/benchmarks/ingest.py load [--rows 100000] [--dim 128] [--rounds 3]
        load_shards against a bare loop of upserts
    python tests/benchmarks/ingest.py embed CAPTIONS [--limit 1000]  ViT-B-32 with random weights, a real file
    python tests/benchmarks/ingest.py memory [--rows 200000 1000000]  generated captions, a trivial encoder

On a machine that others use, compare the processor time, which counts the engine's process too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from timing import alternate

from rag_clip.captions.shards import ShardFolder
from rag_clip.pipelines.embed import embed_captions
from rag_clip.pipelines.load import load_shards
from rag_clip.progress import ProgressEvent
from rag_clip.store import create_store, load_schema
from rag_clip.testing import ToyEncoder

WORDS = (
    "red",
    "blue",
    "green",
    "old",
    "new",
    "small",
    "dog",
    "cat",
    "flag",
    "door",
    "house",
    "street",
    "night",
    "river",
)


@dataclass(frozen=True, slots=True)
class TrivialEncoder(ToyEncoder):
    """Costs next to nothing: the vector of a text is seeded by its length and its first characters."""

    dim: int = 128

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Return unit rows [t, d] from one table of random numbers."""
        table = np.random.default_rng(0).standard_normal((4096, self.dim), dtype=np.float32)
        rows = np.fromiter((hash(text) % 4096 for text in texts), np.int64, len(texts))
        return torch.nn.functional.normalize(torch.from_numpy(table[rows] + 0.1 * table[rows[::-1]]), dim=-1)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    load = verbs.add_parser("load")
    load.add_argument("--rows", type=int, default=100_000)
    load.add_argument("--dim", type=int, default=128)
    load.add_argument("--rounds", type=int, default=3)
    embed = verbs.add_parser("embed")
    embed.add_argument("captions", type=Path)
    embed.add_argument("--limit", type=int, default=1000)
    embed.add_argument("--shard-rows", type=int, default=250)
    memory = verbs.add_parser("memory")
    memory.add_argument("--rows", type=int, nargs="+", default=[200_000, 1_000_000])
    memory.add_argument("--dim", type=int, default=128)
    memory.add_argument("--plain", action="store_true", help="No number of its own in each caption.")
    memory.add_argument("--only", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        {"load": measure_load, "embed": measure_embed, "memory": measure_memory}[options.verb](options, Path(name))


def measure_load(options: argparse.Namespace, folder: Path) -> None:
    """Print the seconds of load_shards and of upserting the same batches, prepared in memory, and optimising."""
    ratios = []
    ours, bare = load_pair(folder, options.rows, options.dim)
    for mine, theirs in alternate(ours, bare, options.rounds):
        ratios.append((mine.wall / theirs.wall, mine.processor / theirs.processor))
        print(
            f"bare {theirs.wall:6.2f} s ({theirs.processor:6.2f} s of processor), "
            f"load_shards {mine.wall:6.2f} s ({mine.processor:6.2f} s)"
        )
    wall, processor = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(
        f"{options.rows} x {options.dim}: {wall:.3f} of the bare loop by wall clock, {processor:.3f} by processor time"
    )


def load_pair(folder: Path, rows: int, dim: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """Embed generated captions; return load_shards of them, and the bare loop over the same batches, from nothing."""
    encoder = TrivialEncoder(dim=dim)
    write_corpus(folder / "web.parquet", rows)
    embed_captions([folder / "web.parquet"], shards=folder / "shards", encoder=encoder)
    batches = list(prepare(folder / "shards", dim))

    def ours() -> None:
        for made in ("index", "shards/loaded"):
            shutil.rmtree(folder / made, ignore_errors=True)
        load_shards(folder / "shards", index=folder / "index")

    def bare() -> None:
        shutil.rmtree(folder / "bare", ignore_errors=True)
        load_bare(batches, encoder, folder / "bare")

    return ours, bare


def prepare(shards: Path, dim: int) -> Iterator[pa.RecordBatch]:
    """Yield all rows of the shards as ready batches of 256."""
    for path in sorted(shards.glob("*.parquet")):
        table = pq.read_table(path).combine_chunks()
        values = table["vector"].chunk(0).flatten().to_numpy().astype(np.float32)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(values), dim)
        yield from table.drop_columns("vector").append_column("vector", vectors).to_batches(256)


def load_bare(batches: Sequence[pa.RecordBatch], encoder: ToyEncoder, index: Path) -> None:
    """Upsert and optimise, and nothing else."""
    with create_store(index, schema=load_schema(), encoder=encoder.fingerprint, dim=encoder.dim) as store:
        for batch in batches:
            store.upsert(batch)
        store.optimise()


def measure_embed(options: argparse.Namespace, folder: Path) -> None:
    """Print which share of the wall time of the embed stage lies inside the text tower."""
    from text_encoding import random_encoder

    captions = pl.read_parquet(options.captions, columns=["caption"]).drop_nulls()
    captions.gather_every(max(1, len(captions) // options.limit)).head(options.limit).write_parquet(
        folder / "c.parquet"
    )
    encoder = random_encoder("ViT-B-32")
    encoder.encode_text(["warm", "up"])
    start = time.perf_counter()
    summary = embed_captions(
        [folder / "c.parquet"], encoder=encoder, shards=ShardFolder(folder / "shards", rows=options.shard_rows)
    )
    wall = time.perf_counter() - start
    print(f"{summary.kept} captions in {summary.written} shards, {wall:.1f} s, {summary.kept / wall:.1f} captions/s")
    for name, seconds in summary.seconds.items():
        print(f"   {name:14} {seconds:8.2f} s  {100 * seconds / wall:5.1f} % of the wall time")


def measure_memory(options: argparse.Namespace, folder: Path) -> None:
    """Print the peak memory of a fresh process, its engine apart, for each number of captions."""
    if options.only:
        print(json.dumps(watch(options.only, options.dim)))
        return
    print(
        "MiB, highest: this process at its start, in embed, in load; files the engine maps; captions/s of both stages;"
    )
    print("   and the engine's own memory, highest in each quarter of the load and in the last optimisation")
    for rows in options.rows:
        corpus = folder / str(rows)
        corpus.mkdir()
        write_corpus(corpus / "web.parquet", rows, numbered=not options.plain)
        command = [sys.executable, __file__, "memory", "--only", str(corpus), "--dim", str(options.dim)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        mebibytes = " ".join(f"{found[name]:7.0f}" for name in ("start", "embed", "load", "mapped"))
        rates = " ".join(f"{rows / found[f'{name} seconds']:8.0f}" for name in ("embed", "load"))
        print(f"{rows:10} {mebibytes} {rates}   {' '.join(f'{part:.0f}' for part in found['engine'])}", flush=True)
        shutil.rmtree(corpus)


def watch(corpus: Path, dim: int) -> dict[str, Any]:
    """Run both stages in this process; return peaks of resident memory in MiB, and seconds."""
    encoder, found = TrivialEncoder(dim=dim), {"start": resident("self")}
    engine, mapped, quarter, over = [0.0] * 5, 0.0, 0, threading.Event()
    begin = time.perf_counter()
    embed_captions([corpus / "web.parquet"], shards=corpus / "shards", encoder=encoder)
    found |= {"embed": peak(), "embed seconds": time.perf_counter() - begin}

    def sample() -> None:
        nonlocal mapped
        while not over.wait(0.05):
            engine[quarter] = max(engine[quarter], *(resident(child, "RssAnon") for child in children()), 0.0)
            mapped = max(mapped, *(resident(child, "RssFile") for child in children()), 0.0)

    def follow(event: ProgressEvent) -> None:
        nonlocal quarter
        quarter = 4 if event.stage == "optimise" else 4 * (event.done - 1) // (event.total or event.done)

    watcher = threading.Thread(target=sample)
    watcher.start()
    begin = time.perf_counter()
    load_shards(corpus / "shards", index=corpus / "index", schema=cheap_schema(), report=follow)
    found |= {"load": peak(), "load seconds": time.perf_counter() - begin}
    over.set()
    watcher.join()
    return found | {"engine": engine, "mapped": mapped}


def cheap_schema() -> Any:
    """Return the schema with the smallest graph, which is built as often as any: its size and time are known."""
    schema = load_schema()
    return schema.model_copy(update={"hnsw": schema.hnsw.model_copy(update={"m": 2, "ef_construct": 4})})


def peak() -> float:
    """Return the highest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident(process: str, kind: str = "VmRSS") -> float:
    """Return the resident memory of a process in MiB, of it `RssAnon` or `RssFile`; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{kind}:")), 0.0)


def children() -> list[str]:
    """Return the processes that this one started."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def write_corpus(path: Path, rows: int, chunk: int = 50_000, *, numbered: bool = True) -> None:
    """Write generated captions of 4 to 12 words in a process of its own: its memory must not count.

    A number makes each one different, and is a word that no other caption has.
    """
    if os.fork():
        os.wait()
        return
    draw, words = np.random.default_rng(0), np.array(WORDS)
    with pq.ParquetWriter(path, pa.schema({"caption": pa.string()})) as writer:
        for start in range(0, rows, chunk):
            lengths = draw.integers(4 if numbered else 8, 13, min(chunk, rows - start))
            texts = [" ".join(words[draw.integers(0, len(words), n)]) for n in lengths]
            if numbered:
                texts = [f"{text} {start + row}" for row, text in enumerate(texts)]
            writer.write_table(pa.table({"caption": texts}))
    os._exit(0)


if __name__ == "__main__":
    main()

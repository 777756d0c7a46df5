"""Pages of large files and indexes, and pictures classified per second: `python tests/benchmarks/web.py`.

A predictions file of `--rows` rows without pictures is generated, and an index of `--captions` captions of 4 to 12
words with random vectors of the bundled model's width (`--index FOLDER` keeps it there, and takes one that is there).
First bytes are of a server on this machine, the median and largest of 20 requests after one that opens the file.
`--job` classifies photographs in a job meanwhile. Pictures are sent one by one, and by 16 clients at once, which the
service encodes together; one round of each in turns, three times.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import uvicorn

from rag_clip.data import LabelSet
from rag_clip.demo import make
from rag_clip.demo.concepts import concepts
from rag_clip.files.prompts import write_prompts
from rag_clip.models.open_clip import load_encoder
from rag_clip.prompts.templates import template_prompts
from rag_clip.store import caption_id, create_store, load_schema
from rag_clip.web.app import create_app

NAMES = tuple(concept.name for concept in concepts()[:100])


def predictions(path: Path, rows: int) -> None:
    """Write a file with the columns of predictions."""
    draw = np.random.default_rng(0)
    labels = pa.array(NAMES).take(pa.array(draw.integers(0, len(NAMES), rows)))
    table = pa.table({"label": labels, "score": draw.random(rows, np.float32), "error": pa.nulls(rows, pa.string())})
    facts = {"columns": ["label", "score", "error"], "prompts": {"digest": ""}, "rows": rows}
    pq.write_table(table.replace_schema_metadata({"rag_clip": json.dumps(facts)}), path, row_group_size=50_000)


def captions(path: Path, rows: int) -> None:
    """Make an index of captions whose words are as unequally frequent as those of a language."""
    draw, encoder = np.random.default_rng(0), load_encoder("demo", device="cpu")
    words = np.array(["a", "of", "red", "flag", "the", "blue", *(f"w{number:x}" for number in range(50_000))])
    with create_store(path, schema=load_schema(), encoder=encoder.fingerprint, dim=encoder.dim) as store:
        for start in range(0, rows, 5_000):
            count = min(5_000, rows - start)
            ranks = np.minimum(draw.zipf(1.2, (count, 12)), len(words)) - 1
            lengths = draw.integers(4, 13, count)
            texts = [" ".join(words[row[:length]]) for row, length in zip(ranks, lengths, strict=True)]
            vectors = draw.standard_normal((count, encoder.dim), np.float32)
            columns = {
                "id": [caption_id("made", f"{start + place}") for place in range(count)],
                "text": texts,
                "source": ["made"] * count,
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), encoder.dim),
            }
            store.upsert(pa.record_batch(columns))
        store.optimise()


def first_bytes(call: Callable[[], httpx.Response]) -> str:
    """Time 20 requests until their headers and first bytes are there."""
    first = call()
    found = []
    for _ in range(20):
        start = time.perf_counter()
        call()
        found.append(1000 * (time.perf_counter() - start))
    return f"{statistics.median(found):.0f} ms (largest {max(found):.0f}), {len(first.content) / 1000:.0f} kB"


def main() -> None:
    """Serve, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--captions", type=int, default=0)
    parser.add_argument("--index", type=Path)
    parser.add_argument("--job", action="store_true")
    parser.add_argument("--requests", type=int, default=96)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        predictions(Path(folder) / "predictions.parquet", asked.rows)
        write_prompts(template_prompts(LabelSet(NAMES)), Path(folder) / "prompts.parquet")
        index = asked.index or (Path(folder) / "captions" if asked.captions else None)
        if index and not index.exists():
            start = time.perf_counter()
            captions(index, asked.captions)
            print(f"an index of {asked.captions} captions in {time.perf_counter() - start:.0f} s", flush=True)
        pq.write_table(pa.table({"image": list(make.photographs(5, 9))}), Path(folder) / "photographs.parquet")
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(folder, model="demo", index=str(index) if index else None), log_level="warning", ws="none"
            )
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.02)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with httpx.Client(base_url=address, timeout=300) as client:
            if asked.job:
                files = {"images": "photographs.parquet", "prompts": "prompts.parquet"}
                client.post("/v1/classify/file", json=files).raise_for_status()
            of_index = (
                f"/index?name={index}",
                "text=red+flag",
                "text=w1f",
                "text=a+w2a7+w99",
                "text=red+flag&minus=w5",
            )
            searches = [] if index is None else [of_index[0], *(f"{of_index[0]}&{text}" for text in of_index[1:])]
            for path in (
                "/",
                *searches,
                "/predictions?file=predictions.parquet",
                f"/predictions?file=predictions.parquet&start={asked.rows - 100}",
                "/predictions?file=predictions.parquet&below=0.00005",
            ):
                print(f"{path}: {first_bytes(partial(client.get, path))}", flush=True)
            if asked.job:
                print(client.get("/health").json())
            pictures = list(make.photographs(5, 1))[:32]

            def classify(number: int) -> None:
                files = [("images", ("x.jpg", pictures[number % 32]))]
                answer = client.post("/v1/classify", params={"prompts": "prompts.parquet"}, files=files)
                answer.raise_for_status()

            classify(0)
            for _ in range(3):
                rates = []
                for clients in (1, 16):
                    start = time.perf_counter()
                    with ThreadPoolExecutor(clients) as pool:
                        list(pool.map(classify, range(asked.requests)))
                    rates.append(asked.requests / (time.perf_counter() - start))
                print(f"one by one {rates[0]:.1f}/s, 16 clients {rates[1]:.1f}/s, ratio {rates[1] / rates[0]:.2f}")
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main()

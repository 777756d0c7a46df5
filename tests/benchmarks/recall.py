"""Recall@k, build seconds, disk and milliseconds of the embedded index in fp32, int8 and turbo4, on one set of vectors.

    python tests/benchmarks/recall.py CAPTIONS.parquet [--model demo|random] [--column caption] [--limit 4000]
        [--queries 200]

`random` is ViT-B-32 with random weights. A graph is built whatever the size. The queries are those of `check_index`:
stored vectors, each moved in a random direction; recall is against comparison with every vector.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import polars
import pyarrow as pa
from text_encoding import random_encoder

from rag_clip.models.open_clip import load_encoder
from rag_clip.protocols import Encoder
from rag_clip.store import CollectionSchema, caption_id, check_index, create_store, load_schema, open_store
from rag_clip.store.schema import QuantizationSchema

BATCH_ROWS = 2048
SMALLEST_THRESHOLD = 10


def embed(captions: list[str], encoder: Encoder) -> list[pa.RecordBatch]:
    """Embed captions as batches for `Store.upsert`."""
    batches = []
    for start in range(0, len(captions), BATCH_ROWS):
        texts = captions[start : start + BATCH_ROWS]
        flat = pa.array(encoder.encode_text(texts).cpu().numpy().reshape(-1))
        columns = {"id": [caption_id("bench", text) for text in texts], "text": texts, "source": ["bench"] * len(texts)}
        batches.append(pa.record_batch(columns | {"vector": pa.FixedSizeListArray.from_arrays(flat, encoder.dim)}))
    return batches


def schema_with(kind: str) -> CollectionSchema:
    """The shipped schema with another compression, and a graph for any size."""
    shipped = load_schema()
    hnsw = shipped.hnsw.model_copy(update={"full_scan_threshold": SMALLEST_THRESHOLD})
    return shipped.model_copy(update={"quantization": QuantizationSchema.model_validate({"kind": kind}), "hnsw": hnsw})


def engine_seconds() -> float:
    """Return the CPU seconds of the engine processes that have ended; on a busy machine steadier than the clock."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(kind: str, batches: list[pa.RecordBatch], encoder: Encoder, queries: int, k: int) -> dict[str, Any]:
    """Build an index and check it."""
    with tempfile.TemporaryDirectory() as folder:
        location = Path(folder) / "index"
        fingerprint = encoder.fingerprint
        begun, spent = time.perf_counter(), engine_seconds()
        with create_store(location, schema=schema_with(kind), encoder=fingerprint, dim=encoder.dim) as store:
            for batch in batches:
                store.upsert(batch)
            loaded = time.perf_counter()
            store.optimise()
            built = time.perf_counter()
        cpu = engine_seconds() - spent
        with open_store(location) as store:
            found = check_index(store, queries=queries, k=k, index="hnsw")
            info = store.info()
    return {
        "kind": kind,
        "rows": info["count"],
        "width": encoder.dim,
        f"recall@{k}": round(found.recall, 4),
        "worst 5 %": round(found.recall_p05, 4),
        "load s": round(loaded - begun, 1),
        "build s": round(built - loaded, 1),
        "load + build CPU s": round(cpu, 1),
        "disk MB": round(info["bytes"] / 1e6, 1),
        "resident MB": round(info["memory"]["resident"] / 1e6, 1),
        "p50 ms": round(1000 * found.served_p50, 2),
        "p95 ms": round(1000 * found.served_p95, 2),
        "exact p50 ms": round(1000 * found.exact_p50, 2),
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", type=Path)
    parser.add_argument("--model", choices=["demo", "random"], default="demo")
    parser.add_argument("--column", default="caption")
    parser.add_argument("--limit", type=int, default=4000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--k", type=int, default=100)
    options = parser.parse_args()
    captions = polars.read_parquet(options.captions, columns=[options.column])[options.column]
    distinct = captions.drop_nulls().unique(maintain_order=True).head(options.limit).to_list()
    encoder = load_encoder("demo") if options.model == "demo" else random_encoder("ViT-B-32")
    begun = time.perf_counter()
    batches = embed(distinct, encoder)
    print(f"{len(distinct)} captions embedded by {options.model} in {time.perf_counter() - begun:.1f} s")
    rows = [measure(kind, batches, encoder, options.queries, options.k) for kind in ("none", "int8", "turbo4")]
    with polars.Config(tbl_cols=-1, tbl_width_chars=200, tbl_hide_column_data_types=True):
        print(polars.DataFrame(rows))


if __name__ == "__main__":
    main()

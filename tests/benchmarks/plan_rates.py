"""The rates of index/rates.toml that `index plan` multiplies: bytes and seconds of a caption, by width and number type.

    python tests/benchmarks/plan_rates.py [--captions 20000] [--widths 32 512]

The captions are those of retrieval.py (about 45 characters, each with a number of its own). The graph is built however
small the index is; load and graph are seconds of the processor. What a server takes, and a GPU, is not measured here.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from large_index import WordSums, size, write_captions
from timing import timed

from rag_clip.pipelines.embed import embed_captions
from rag_clip.pipelines.load import load_shards
from rag_clip.store import load_schema
from rag_clip.store.schema import plan_memory


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=20_000)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 512])
    options = parser.parse_args()
    for width in options.widths:
        for datatype, kind in (("float32", "int8"), ("float16", "int8")):
            with tempfile.TemporaryDirectory() as name:
                print(measure(Path(name), options.captions, width, datatype, kind), flush=True)


def measure(folder: Path, rows: int, width: int, datatype: str, kind: str) -> dict[str, Any]:
    """Embed and load captions with a schema; return bytes and microseconds per caption."""
    write_captions(folder / "captions.parquet", rows)
    embedded = embed_captions([folder / "captions.parquet"], shards=folder / "shards", encoder=WordSums(dim=width))
    schema, spent = with_graph(datatype, kind), {}
    for name, described in (("plain", load_schema()), ("graph", schema)):
        _, spent[name] = timed(partial(load_shards, folder / "shards", index=folder / name, schema=described))
        shutil.rmtree(folder / "shards" / "loaded", ignore_errors=True)
    postings = size(folder / "graph" / "postings")
    log = size(folder / "graph" / "shard" / "wal")
    engine = size(folder / "graph") - postings - log
    planned = plan_memory(schema, width, rows)
    of_vectors = sum(planned[part] for part in ("vectors", "quantized", "graph"))
    each = {name: 1e6 * seconds / rows for name, seconds in embedded.seconds.items()}
    each |= {"load": 1e6 * spent["plain"].processor / rows}
    each |= {"graph": 1e6 * (spent["graph"].processor - spent["plain"].processor) / rows}
    return {
        "width": width,
        "datatype": datatype,
        "quantization": kind,
        "bytes": {
            "shards": round(size(folder / "shards") / rows),
            "postings": round(postings / rows),
            "engine": round(engine / rows),
            "engine without vectors, copies and graph": round((engine - of_vectors) / rows),
        },
        "bytes of the log in all": log,
        "microseconds": {name: round(number, 1) for name, number in each.items()},
    }


def with_graph(datatype: str, kind: str) -> Any:
    """Return the schema of captions with other vectors, and a graph for any number of rows."""
    schema = load_schema()
    (vector,) = schema.vectors
    return schema.model_copy(
        update={
            "vectors": (vector.model_copy(update={"datatype": datatype}),),
            "quantization": schema.quantization.model_copy(update={"kind": kind}),
            "hnsw": schema.hnsw.model_copy(update={"full_scan_threshold": 10}),
        }
    )


if __name__ == "__main__":
    main()

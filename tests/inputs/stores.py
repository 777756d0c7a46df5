"""Six captions, and stores for them: embedded, in memory, on the oldest server, or on that at QDRANT_URL."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from qdrant_client import QdrantClient

from inputs.qdrant_process import QdrantProcess
from rag_clip.data import Fingerprint
from rag_clip.protocols import Encoder
from rag_clip.store import Card, CollectionSchema, Store, caption_id, create_store, load_schema
from rag_clip.store.connection import create_server
from rag_clip.store.schema import KeywordIndex, NumberIndex, ServerSchema, TextIndex, VectorSchema

DIM = 4
ENCODER = Fingerprint("toy", "", "weights-1", "8x8")
CAPTIONS = [
    ("web", "a red kite over the sea", [1.0, 0.0, 0.0, 0.0]),
    ("web", "a red flag", [0.8, 0.6, 0.0, 0.0]),
    ("web", "a blue flag", [0.0, 1.0, 0.0, 0.0]),
    ("coco", "a bird called kite, a kite", [0.6, 0.0, 0.8, 0.0]),
    ("coco", "a photo of a dog", [0.0, 0.0, 0.6, 0.8]),
    ("coco", "a red flag", [0.8, 0.6, 0.0, 0.0]),
]
IDS = [caption_id(source, text) for source, text, _vector in CAPTIONS]


def batch(rows=CAPTIONS) -> pa.RecordBatch:
    return pa.record_batch(
        {
            "id": [caption_id(source, text) for source, text, _vector in rows],
            "text": [text for _source, text, _vector in rows],
            "source": [source for source, _text, _vector in rows],
            "vector": pa.array([vector for _source, _text, vector in rows], pa.list_(pa.float32())),
        }
    )


def fill_index(folder: Path, captions: Sequence[str], encoder: Encoder) -> Path:
    """Make an index of captions, with the vectors of an encoder and the source "toy", in `folder`."""
    columns = {
        "id": [caption_id("toy", text) for text in captions],
        "text": captions,
        "source": ["toy"] * len(captions),
        "vector": encoder.encode_text(captions).tolist(),
    }
    with create_store(folder, schema=load_schema(), encoder=encoder.fingerprint, dim=encoder.dim) as store:
        store.upsert(pa.record_batch(columns))
    return folder


OLDEST = "1.12.6"
REAL = pytest.param("server", marks=pytest.mark.server)
ENGINES = ["edge", "memory", "oldest", REAL]
SERVERS = ["stand-in", "oldest", REAL]


PAIRED = load_schema().model_copy(
    update={
        "vectors": (VectorSchema(name="image"), VectorSchema(name="text")),
        "default": "text",
        "payload": load_schema().payload
        | {"licence": KeywordIndex(kind="keyword")}
        | {"width": NumberIndex(kind="integer"), "noise": NumberIndex(kind="float"), "title": TextIndex(kind="text")},
    }
)
PAYLOAD: dict[str, list[Any]] = {
    "licence": ["cc0", "by", None, "by", None, "cc0"],
    "width": [640, 320, 200, None, None, None],
    "noise": [0.0, 0.25, 0.5, 0.75, None, None],
    "title": ["Kite", None, None, None, None, None],
}


def paired_batch() -> pa.RecordBatch:
    """The captions with payload; each has its neighbour's vector as that of its image."""
    columns = {name: batch().column(name) for name in ("id", "text", "source")}
    vectors = [vector for _source, _text, vector in CAPTIONS]
    columns["vector_text"] = pa.array(vectors, pa.list_(pa.float32()))
    columns["vector_image"] = pa.array([*vectors[1:], vectors[0]], pa.list_(pa.float32()))
    return pa.record_batch(columns | PAYLOAD)


@contextmanager
def opened(engine: str, folder: Path, schema: CollectionSchema) -> Iterator[Store]:
    with ExitStack() as stack:
        yield stack.enter_context(_open(engine, folder, schema, stack))


def _open(engine: str, folder: Path, schema: CollectionSchema, stack: ExitStack) -> Store:
    if engine == "edge":
        store = create_store(folder / "index", schema=schema, encoder=ENCODER, dim=DIM)
    elif engine == "memory":
        qdrant, card = create_server(QdrantClient(":memory:"), "captions", "memory", Card(ENCODER, schema, DIM))
        store = Store(qdrant, card, "memory")
    else:
        location = f"{stack.enter_context(served(engine, folder))}/test-{uuid.uuid4()}"
        if engine == "server":
            schema = schema.model_copy(update={"server": copies()})
        store = create_store(location, schema=schema, encoder=ENCODER, dim=DIM)
    return store


@contextmanager
def served(engine: str, folder: Path) -> Iterator[str]:
    """Yield the address of a stand-in of this test, or of the server at QDRANT_URL."""
    if engine == "server":
        if "QDRANT_URL" not in os.environ:
            pytest.skip("needs a Qdrant server at QDRANT_URL")
        yield os.environ["QDRANT_URL"]
    else:
        version = {"version": OLDEST} if engine == "oldest" else {}
        process = QdrantProcess(folder / "server", **version).start()
        yield process.location
        process.kill()


def copies() -> ServerSchema:
    """Return the settings of the server at QDRANT_URL; QDRANT_COPIES is the copies of a shard on a cluster."""
    count = int(os.environ.get("QDRANT_COPIES", "1"))
    return ServerSchema(replication_factor=count, write_consistency=count)

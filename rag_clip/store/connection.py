"""Connecting to a Qdrant server, and opening or creating a collection; the card is in the collection's metadata."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

from grpc import RpcError
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from rag_clip.store.card import Card, read_card
from rag_clip.store.interface import StoreError
from rag_clip.store.schema import CollectionSchema, PayloadIndex, TextIndex, VectorSchema
from rag_clip.store.server import METADATA_KEY, ServerEngine
from rag_clip.store.server_errors import Pause, server_errors

TIMEOUT_SECONDS = 60
# By default gRPC waits up to two minutes between attempts to connect, longer than we keep trying.
RECONNECT = {"grpc.initial_reconnect_backoff_ms": 100, "grpc.max_reconnect_backoff_ms": 2000}
OLDEST_SERVER = (1, 20)


def connect(location: str, api_key: str | None) -> tuple[QdrantClient, str | None]:
    """Connect to http(s)://host[:port][/collection]; returns the client and the collection, if one is named.

    gRPC is expected on the next port (6334 for 6333). Raises ValueError for a URL with other parts, such as
    credentials, and for a key that cannot be sent.
    """
    url = urlsplit(location)
    parts = [part for part in url.path.split("/") if part]
    if url.username or url.password or url.query or url.fragment or len(parts) > 1 or not url.hostname:
        raise ValueError(
            "the address of a server is http(s)://host:port/collection and nothing more; the API key comes from the "
            "environment variable QDRANT_API_KEY"
        )
    port = url.port or 6333
    with server_errors(location):
        client = QdrantClient(
            host=url.hostname,
            port=port,
            grpc_port=port + 1,
            https=url.scheme == "https",
            prefer_grpc=True,
            api_key=_check_key(api_key),
            grpc_options=dict(RECONNECT),
            timeout=TIMEOUT_SECONDS,
            check_compatibility=False,
        )
    return client, parts[0] if parts else None


def _check_key(api_key: str | None) -> str | None:
    """Strip white space around a key; raises ValueError, without the key, where an HTTP header cannot carry it."""
    key = (api_key or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError(
            "QDRANT_API_KEY holds a line break or a character outside ASCII, which no key has; set it to the key alone"
        )
    return key or None


def open_server(
    client: QdrantClient, collection: str, location: str, *, pause: Pause = time.sleep
) -> tuple[ServerEngine, Card]:
    """Open a collection; raises FileNotFoundError where there is none, ValueError if rag-clip did not create it.

    `pause` sleeps for some seconds between the attempts of the engine. Opening itself is tried only once, so that a
    wrong address fails at once.
    """
    with server_errors(location):
        _check_version(client, location)
        if not client.collection_exists(collection):
            raise FileNotFoundError(
                f"no collection {collection!r} at {location}; make one with: rag-clip index build CAPTIONS "
                f"--index {location}"
            )
        metadata = client.get_collection(collection).config.metadata or {}
    if METADATA_KEY not in metadata:
        raise ValueError(f"collection {collection!r} at {location} was not made by rag-clip; name another collection")
    card = read_card(metadata[METADATA_KEY], location)
    return ServerEngine(client, collection, card, pause=pause), card


def create_server(
    client: QdrantClient, collection: str, location: str, wanted: Card, *, pause: Pause = time.sleep
) -> tuple[ServerEngine, Card]:
    """Create an empty collection with its payload indexes, or open an existing one; see `open_server`.

    Payload indexes that are missing because an earlier creation was interrupted are created now.
    """
    with server_errors(location):
        _check_version(client, location)
        if not client.collection_exists(collection):
            _create(client, collection, wanted)
        engine, card = open_server(client, collection, location, pause=pause)
        indexed = client.get_collection(collection).payload_schema
        for name, index in card.schema.payload.items():
            if name not in indexed:
                client.create_payload_index(collection, name, _index(index), wait=True)
    return engine, card


def _create(client: QdrantClient, collection: str, card: Card) -> None:
    """Create the collection, unless another process does so at the same moment."""
    try:
        client.create_collection(
            collection, **_description(card.schema, card.dim), metadata={METADATA_KEY: card.to_dict()}
        )
    except (RpcError, UnexpectedResponse, ValueError):
        if not client.collection_exists(collection):
            raise


def _check_version(client: QdrantClient, location: str) -> None:
    """Refuse a server that is too old: it would ignore a BM25 query and return arbitrary captions."""
    version = client.info().version
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_SERVER:
        oldest = ".".join(map(str, OLDEST_SERVER))
        raise StoreError(f"the server at {location} is Qdrant {version}; {oldest} or later is needed: update it")


def _description(schema: CollectionSchema, dim: int) -> dict[str, Any]:
    hnsw, server = schema.hnsw, schema.server
    return {
        "vectors_config": {vector.name: _vector(vector, dim) for vector in schema.vectors},
        "hnsw_config": models.HnswConfigDiff(
            m=hnsw.m, ef_construct=hnsw.ef_construct, full_scan_threshold=hnsw.full_scan_threshold
        ),
        "optimizers_config": models.OptimizersConfigDiff(indexing_threshold=hnsw.full_scan_threshold),
        "quantization_config": _quantization(schema.quantization.kind),
        "shard_number": server.shards,
        "replication_factor": server.replication_factor,
        "write_consistency_factor": server.write_consistency,
    }


def _quantization(kind: str) -> models.ScalarQuantization | models.TurboQuantization | None:
    if kind == "int8":
        return models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        )
    if kind == "turbo4":
        return models.TurboQuantization(
            turbo=models.TurboQuantQuantizationConfig(bits=models.TurboQuantBitSize.BITS4, always_ram=True)
        )
    return None


def _vector(vector: VectorSchema, dim: int) -> models.VectorParams:
    return models.VectorParams(
        size=dim,
        distance=models.Distance.COSINE if vector.distance == "cosine" else models.Distance.DOT,
        datatype=models.Datatype(vector.datatype),
        on_disk=vector.on_disk,
    )


def _index(index: PayloadIndex) -> models.PayloadSchemaType | models.TextIndexParams:
    if not isinstance(index, TextIndex):
        return models.PayloadSchemaType(index.kind)
    return models.TextIndexParams(
        type=models.TextIndexType.TEXT,
        tokenizer=models.TokenizerType(index.tokenizer),
        lowercase=index.lowercase,
        scoring=True,
    )

"""Connecting to a Qdrant server by gRPC, or by REST where there is no gRPC, and opening or creating a collection."""

from __future__ import annotations

import socket
import ssl
import time
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from grpc import RpcError, StatusCode
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from rag_clip.store.card import Card, read_card
from rag_clip.store.interface import StoreError
from rag_clip.store.lexical import BM25
from rag_clip.store.schema import CollectionSchema, PayloadIndex, TextIndex, VectorSchema
from rag_clip.store.server import ServerEngine, dotted
from rag_clip.store.server_card import METADATA_KEY, read_server_card, write_card_point
from rag_clip.store.server_errors import Pause, server_errors

TIMEOUT_SECONDS = 60
# By default gRPC waits up to two minutes between attempts to connect, longer than we keep trying.
RECONNECT = {"grpc.initial_reconnect_backoff_ms": 100, "grpc.max_reconnect_backoff_ms": 2000}
OLDEST_SERVER = (1, 12)
WITH_METADATA = (1, 16)
NO_GRPC = {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.UNIMPLEMENTED, StatusCode.UNKNOWN}
PROBE_SECONDS = 5.0


def connect(
    location: str, api_key: str | None, *, ca_file: str | None = None, rest: bool = False
) -> tuple[QdrantClient, str | None]:
    """Make a client for http(s)://host[:port][/prefix...][/collection]; return it and the collection, if one is named.

    location: of several parts of the path, the last is the collection, and the others are a prefix.
    api_key: sent with every request.
    ca_file: certificates, PEM, of the authorities to trust, for a server with a certificate of one's own.
    rest: use REST only, as with a prefix; by default gRPC on the next port (6334 for 6333).

    Raises ValueError for a URL with other parts, such as credentials, for a key that cannot be sent, and for a file
    that holds no certificates; OSError for one that cannot be read.
    """
    url = urlsplit(location)
    parts = [part for part in url.path.split("/") if part]
    if url.username or url.password or url.query or url.fragment or not url.hostname:
        raise ValueError(
            "the address of a server is http(s)://host:port/collection and nothing more; the API key comes from the "
            "environment variable QDRANT_API_KEY"
        )
    port, key, secure = url.port or 6333, _check_key(api_key), url.scheme == "https"
    authorities = _read_authorities(ca_file) if ca_file and secure else None
    trusted: dict[str, Any] = {"verify": ssl.create_default_context(cafile=ca_file)} if authorities else {}
    with server_errors(location):
        client = QdrantClient(
            host=url.hostname,
            port=port,
            grpc_port=port + 1,
            https=secure,
            prefix="/".join(parts[:-1]) or None,
            prefer_grpc=not rest and len(parts) < 2,
            api_key=key,
            grpc_options=RECONNECT | ({"root_certificates": authorities} if authorities else {}),
            timeout=TIMEOUT_SECONDS,
            check_compatibility=False,
            **trusted,
        )
    return client, parts[-1] if parts else None


def reach(location: str, api_key: str | None, *, ca_file: str | None = None) -> tuple[QdrantClient, str | None]:
    """Connect as `connect` does, by REST where gRPC does not answer and REST does; see `open_server` for errors."""
    client, collection = connect(location, api_key, ca_file=ca_file)
    if not client.init_options["prefer_grpc"] or _has_grpc(client, location):
        return client, collection
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Api key is used with an insecure connection", UserWarning)  # said once
        over_rest, _collection = connect(location, api_key, ca_file=ca_file, rest=True)
    try:
        over_rest.info()
    except ApiException:
        over_rest.close()
        return client, collection
    client.close()
    return over_rest, collection


def _has_grpc(client: QdrantClient, location: str) -> bool:
    options = client.init_options
    try:
        with socket.create_connection((options["host"], options["grpc_port"]), timeout=PROBE_SECONDS):
            pass
        client.info()
    except OSError:
        return False
    except RpcError as error:
        return not (hasattr(error, "code") and error.code() in NO_GRPC)
    return True


def _read_authorities(ca_file: str) -> bytes:
    authorities = Path(ca_file).read_bytes()
    try:
        ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise ValueError(f"QDRANT_CA_FILE names {ca_file}, which holds no certificates in PEM") from None
    return authorities


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
        version = _check_version(client, location)
        if not client.collection_exists(collection):
            raise FileNotFoundError(
                f"no collection {collection!r} at {location}; make one with: rag-clip index build CAPTIONS "
                f"--index {location}"
            )
        values = read_server_card(client, collection)
    if values is None:
        raise ValueError(f"collection {collection!r} at {location} was not made by rag-clip; name another collection")
    card = read_card(values, location)
    return ServerEngine(client, collection, card, version=version, pause=pause), card


def create_server(
    client: QdrantClient, collection: str, location: str, wanted: Card, *, pause: Pause = time.sleep
) -> tuple[ServerEngine, Card]:
    """Create an empty collection with its payload indexes, or open an existing one; see `open_server`.

    Payload indexes that are missing because an earlier creation was interrupted are created now.
    """
    with server_errors(location):
        version = _check_version(client, location)
        if not client.collection_exists(collection):
            if version < WITH_METADATA:
                write_card_point(client, collection, wanted)
            _create(client, collection, wanted)
        engine, card = open_server(client, collection, location, pause=pause)
        indexed = client.get_collection(collection).payload_schema
        for name, index in card.schema.payload.items():
            if name not in indexed:
                client.create_payload_index(
                    collection, name, _index(index, scoring=not card.schema.ranks_sparse), wait=True
                )
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


def _check_version(client: QdrantClient, location: str) -> tuple[int, ...]:
    """Return the server's version, major and minor; raises StoreError for one that is too old."""
    found = client.info().version
    version = tuple(int(part) for part in found.split(".")[:2])
    if version < OLDEST_SERVER:
        raise StoreError(
            f"the server at {location} is Qdrant {found}; {dotted(OLDEST_SERVER)} or later is needed: update it"
        )
    return version


def _description(schema: CollectionSchema, dim: int) -> dict[str, Any]:
    hnsw, server = schema.hnsw, schema.server
    return {
        "vectors_config": {vector.name: _vector(vector, dim) for vector in schema.vectors},
        "sparse_vectors_config": {BM25: models.SparseVectorParams(modifier=models.Modifier.IDF)}
        if schema.ranks_sparse
        else None,
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


def _index(index: PayloadIndex, *, scoring: bool) -> models.PayloadSchemaType | models.TextIndexParams:
    if not isinstance(index, TextIndex):
        return models.PayloadSchemaType(index.kind)
    return models.TextIndexParams(
        type=models.TextIndexType.TEXT,
        tokenizer=models.TokenizerType(index.tokenizer),
        lowercase=index.lowercase,
        scoring=scoring or None,
    )

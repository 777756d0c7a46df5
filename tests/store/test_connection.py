from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from inputs.stores import batch
from rag_clip.data import Fingerprint
from rag_clip.store import Card, Store, StoreError, load_schema, open_store
from rag_clip.store.connection import connect, create_server, open_server

CARD = Card(Fingerprint("toy", "", "weights-1", "8x8"), load_schema(), 4)


@pytest.fixture
def client() -> Iterator[QdrantClient]:
    client = QdrantClient(":memory:")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Payload indexes have no effect")
        yield client
    client.close()


@pytest.mark.parametrize(
    ("location", "collection", "ports"),
    [
        ("http://localhost:6333", None, (6333, 6334)),
        ("http://localhost", None, (6333, 6334)),
        ("http://localhost:7000/captions-2", "captions-2", (7000, 7001)),
    ],
)
def test_an_address_names_host_ports_and_collection(location, collection, ports):
    client, found = connect(location, None)
    options = client.init_options
    assert (found, options["host"], (options["port"], options["grpc_port"])) == (collection, "localhost", ports)
    client.close()


def test_the_key_goes_to_the_client_only():
    client, _collection = connect("https://localhost:6333/captions", "s3cret")
    assert client.init_options["api_key"] == "s3cret"
    client.close()


@pytest.mark.parametrize(
    "location",
    ["http://me:s3cret@host:6333", "http://host:6333?api_key=s3cret", "http://"],
)
def test_an_address_with_more_in_it_is_refused_without_repeating_it(location):
    with pytest.raises(ValueError, match="QDRANT_API_KEY") as error:
        open_store(location)
    assert "s3cret" not in str(error.value)


def test_a_server_that_does_not_answer_is_named():
    with pytest.raises(StoreError, match=r"failed on http://127\.0\.0\.1:9.*is it running, with gRPC reachable"):
        open_store("http://127.0.0.1:9")


def test_the_card_is_kept_with_the_collection(client):
    create_server(client, "captions", "memory", CARD)
    assert open_server(client, "captions", "memory")[1] == CARD
    assert create_server(client, "captions", "memory", CARD)[1] == CARD


def test_a_missing_and_a_foreign_collection_are_refused(client):
    with pytest.raises(FileNotFoundError, match="no collection 'captions' at memory"):
        open_server(client, "captions", "memory")
    client.create_collection("theirs", models.VectorParams(size=4, distance=models.Distance.COSINE))
    with pytest.raises(ValueError, match="collection 'theirs' at memory was not made by rag-clip"):
        create_server(client, "theirs", "memory", CARD)


class Counting(QdrantClient):
    """Remembers how often it was asked to count, which an engine does by going through all ids."""

    counts = 0

    def count(self, collection_name: str, *arguments: Any, **options: Any) -> models.CountResult:
        self.counts += 1
        return super().count(collection_name, *arguments, **options)


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect", "ignore:Local mode performs exact")
def test_a_search_does_not_count_the_captions_each_time():
    client = Counting(":memory:")
    engine, card = create_server(client, "captions", "memory", CARD)
    with Store(engine, card, "memory") as store:
        for added, expected in ((3, 1), (3, 2)):
            store.upsert(batch()[:added])
            for _ in range(3):
                assert len(store.search(vectors=np.ones((2, 4), np.float32))[1]) == 3
            assert client.counts == expected
        assert (store.count(), client.counts) == (3, 3)


class OldServer:
    """Answers as a Qdrant 1.18 would, which has no BM25 of its own."""

    def info(self) -> models.VersionInfo:
        return models.VersionInfo(title="qdrant", version="1.11.5")


def test_a_server_that_is_too_old_is_refused():
    with pytest.raises(StoreError, match=r"is Qdrant 1\.11\.5; 1\.12 or later is needed"):
        open_server(cast(QdrantClient, OldServer()), "captions", "http://old:6333")

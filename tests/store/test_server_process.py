"""Collections on a server process that can be killed: making them, keys, and moving an index there and back."""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from qdrant_client import QdrantClient

from inputs.qdrant_process import QdrantProcess
from inputs.qdrant_real import KILLED, RealQdrant, in_copies, needs_command
from inputs.stores import DIM, ENCODER, IDS, OLDEST, PAIRED, REAL, batch, opened, paired_batch, served
from rag_clip.progress import ProgressEvent
from rag_clip.store import Card, Store, StoreError, check_index, copy_store, create_store, load_schema, open_store
from rag_clip.store.connection import connect, create_server
from rag_clip.store.copying import copy_rows
from rag_clip.store.server import RANKING_TEXTS

KEY = "the key of this server"
CARD = Card(ENCODER, load_schema(), DIM)

pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning")


@pytest.fixture
def server(tmp_path) -> Iterator[QdrantProcess]:
    server = QdrantProcess(tmp_path / "server")
    yield server
    server.kill()


@pytest.fixture
def locked(tmp_path) -> Iterator[QdrantProcess]:
    server = QdrantProcess(tmp_path / "locked", key=KEY).start()
    yield server
    server.kill()


def connected(server: QdrantProcess | RealQdrant, card: Card, pause: Callable[[float], None]) -> Store:
    client, _collection = connect(server.location, None)
    engine, card = create_server(client, "captions", server.location, card, pause=pause)
    return Store(engine, card, server.location)


def many_rows(count: int) -> pa.RecordBatch:
    return batch([("web", f"caption {row}", [1.0, row / count, 0.0, 0.5]) for row in range(count)])


def rows(store: Store) -> list[dict[str, Any]]:
    return [row for page in store.scroll(vectors=True, payload=True) for row in page.to_pylist()]


def test_what_was_written_is_there_after_a_kill(server):
    with create_store(server.start().location, schema=load_schema(), encoder=ENCODER, dim=DIM) as store:
        store.upsert(batch())
        store.note("funnel", {"kept": 6})
        card = store.card
    server.kill()
    with open_store(server.start().location) as store:
        assert sorted(row["id"] for row in rows(store)) == sorted(IDS)
        assert store.card == card
        assert [hit.text for hit in store.search(texts=["kite"], mode="lexical")[0]] == [
            "a bird called kite, a kite",
            "a red kite over the sea",
        ]


@pytest.mark.parametrize("key", ["another key", "", None])
def test_a_wrong_or_missing_key_is_refused_at_once_with_what_to_do(locked, monkeypatch, key):
    monkeypatch.delenv("QDRANT_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("QDRANT_API_KEY", key)
    message = r"it refused the API key \(Invalid API key or JWT\); set QDRANT_API_KEY to the key of this server"
    with pytest.raises(StoreError, match=message):
        create_store(locked.location, schema=load_schema(), encoder=ENCODER, dim=DIM)
    with pytest.raises(StoreError, match=message):
        open_store(locked.location)


def test_the_right_key_opens_and_the_line_end_of_its_file_does_no_harm(locked, monkeypatch):
    monkeypatch.setenv("QDRANT_API_KEY", f"{KEY}\n")
    with create_store(locked.location, schema=load_schema(), encoder=ENCODER, dim=DIM) as store:
        store.upsert(batch())
        assert store.count() == 6


@pytest.mark.parametrize("key", ["two\nlines", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused_without_repeating_it(monkeypatch, key):
    monkeypatch.setenv("QDRANT_API_KEY", key)
    with pytest.raises(ValueError, match="QDRANT_API_KEY holds a line break or a character outside ASCII") as error:
        open_store("http://127.0.0.1:9")
    assert key not in str(error.value)


@pytest.mark.parametrize("call", ["Create:1", "CreateFieldIndex:1"])
def test_a_collection_whose_making_was_cut_short_is_completed(server, call):
    with pytest.raises(StoreError, match=r"is it running, with gRPC reachable, .* What was written is kept"):
        create_store(server.start(dies_at=call).location, schema=load_schema(), encoder=ENCODER, dim=DIM)
    assert server.wait() == -signal.SIGKILL
    with create_store(server.start().location, schema=load_schema(), encoder=ENCODER, dim=DIM) as store:
        store.upsert(batch())
        assert [hit.text for hit in store.search(texts=["dog"], mode="lexical")[0]] == ["a photo of a dog"]


def test_two_that_make_a_collection_at_the_same_moment_both_get_it(server):
    server.start()
    both_saw_none = threading.Barrier(2)

    class Racing(QdrantClient):
        """Tells that the collection does not exist when the other one has been told so too."""

        asked = False

        def collection_exists(self, collection_name: str, **options: Any) -> bool:
            exists = super().collection_exists(collection_name, **options)
            if not self.asked:
                self.asked = True
                both_saw_none.wait(timeout=60)
            return exists

    def make(text: str) -> Card:
        address: dict[str, Any] = {"host": "127.0.0.1", "grpc_port": int(server.location.rpartition(":")[2]) + 1}
        client = Racing(**address, prefer_grpc=True, check_compatibility=False)
        engine, card = create_server(client, "captions", server.location, CARD)
        with Store(engine, card, server.location) as store:
            store.upsert(batch([("web", text, [1.0, 0.0, 0.0, 0.0])]))
        return card

    with ThreadPoolExecutor(2) as threads:
        cards = list(threads.map(make, ["one", "two"]))
    assert cards == [CARD, CARD]
    with open_store(server.location) as store:
        assert {row["text"] for row in rows(store)} == {"one", "two"}


def test_an_index_goes_to_a_server_process_and_back_with_every_id(server, tmp_path):
    with opened("edge", tmp_path, PAIRED) as source:
        source.upsert(paired_batch())
        there = copy_store(source, f"{server.start().location}/pairs")
        expected = rows(source)
    with open_store(f"{server.location}/pairs") as held:
        back = copy_store(held, tmp_path / "back")
    assert (there.count, there.verified, back.count, back.verified) == (6, 6, 6, 6)
    with open_store(tmp_path / "back") as store:
        found = rows(store)
    vectors = ("vector_text", "vector_image")
    for name in vectors:
        assert [row[name] for row in found] == [pytest.approx(row[name], abs=1e-6) for row in expected]
    assert [row | dict.fromkeys(vectors) for row in found] == [row | dict.fromkeys(vectors) for row in expected]


@pytest.mark.parametrize("call", ["Upsert:4", "Scroll:4"])
def test_a_copy_goes_on_when_the_server_is_killed_and_comes_back(server, tmp_path, call):
    restarts: list[float] = []

    def restart(seconds: float) -> None:
        restarts.append(seconds)
        server.start()
        time.sleep(seconds / 4)

    with opened("edge", tmp_path, load_schema()) as source:
        source.upsert(many_rows(1300))
        expected = [row["id"] for row in rows(source)]
        with connected(server.start(dies_at=call), CARD, restart) as target:
            there = copy_rows(source, target)
            back = copy_store(target, tmp_path / "back")
    assert (there.count, back.count, server.starts) == (1300, 1300, 2)
    assert restarts
    with open_store(tmp_path / "back") as store:
        assert [row["id"] for row in rows(store)] == expected


@pytest.mark.server
@needs_command
@KILLED
def test_a_copy_to_real_nodes_and_back_goes_on_when_one_is_killed(tmp_path, nodes, victim):
    killers: list[threading.Timer] = []

    def kill_once(event: ProgressEvent) -> None:
        if event.stage == "copy" and event.done == 1024:
            killers.append(threading.Timer(0.005, real.kill, [victim]))
            killers[-1].start()

    def restart(seconds: float) -> None:
        real.start()
        time.sleep(seconds / 4)

    card = Card(ENCODER, in_copies(nodes), DIM)
    with RealQdrant(tmp_path / "real", nodes=nodes) as real, opened("edge", tmp_path, load_schema()) as source:
        source.upsert(many_rows(5000))
        expected = rows(source)
        with connected(real, card, restart) as target:
            there = copy_rows(source, target, report=kill_once)
            killers[0].join()
            real.start()
            back = copy_store(target, tmp_path / "back", report=kill_once)
            killers[1].join()
            assert (there.count, back.count, real.start().starts) == (5000, 5000, nodes + 2)
    with open_store(tmp_path / "back") as store:
        found = rows(store)
    assert [row["id"] for row in found] == [row["id"] for row in expected]
    assert np.allclose([row["vector"] for row in found], [row["vector"] for row in expected], atol=1e-6)


@pytest.mark.server
@needs_command
@pytest.mark.parametrize("write", [1, 2])
def test_a_real_cluster_answers_without_a_node_and_writes_if_one_copy_is_enough(tmp_path, write):
    query: dict[str, Any] = {"vectors": np.ones((1, DIM), np.float32), "texts": ["caption"], "limit": 3000}
    with RealQdrant(tmp_path / "real", nodes=3) as real:
        with connected(real, Card(ENCODER, in_copies(3, write=write), DIM), lambda _seconds: None) as store:
            store.upsert(many_rows(1000))
            store.optimise()
            real.kill(2)
            for mode in ("dense", "lexical", "hybrid"):
                assert len(store.search(**query, mode=mode)[0]) == 1000
            assert (store.count(), store.info()["status"]) == (1000, "ready")
            if write == 2:
                with pytest.raises(StoreError, match=r"a node of the cluster away\? .*: start again when it is back"):
                    store.upsert(many_rows(2000))
            else:
                store.upsert(many_rows(2000))
        real.start()
        with connected(real, Card(ENCODER, in_copies(3, write=write), DIM), time.sleep) as store:
            store.upsert(many_rows(2000))
            assert (store.count(), len(store.search(**query)[0])) == (2000, 2000)


@pytest.fixture
def oldest(tmp_path) -> Iterator[QdrantProcess]:
    server = QdrantProcess(tmp_path / "oldest", version=OLDEST)
    yield server
    server.kill()


def test_an_index_of_an_old_server_is_the_same_after_an_update_of_the_server(oldest):
    def ranking(store: Store) -> list[tuple[str, float]]:
        return [(hit.id, hit.score) for hit in store.search(texts=["red kite"], mode="lexical")[0]]

    with create_store(oldest.start().location, schema=PAIRED, encoder=ENCODER, dim=DIM) as store:
        store.upsert(paired_batch())
        store.note("funnel", {"kept": 6})
        card, ranked, stored = store.card, ranking(store), rows(store)
    oldest.kill()
    oldest.version = "1.20.0"
    with create_store(oldest.start().location, schema=PAIRED, encoder=ENCODER, dim=DIM) as store:
        assert (store.card, ranking(store), rows(store)) == (card, ranked, stored)
        store.note("other", {"rows": 1})
    with open_store(oldest.location) as store:
        assert set(store.card.notes) == {"funnel", "other"}


@pytest.mark.parametrize("engine", ["oldest", REAL])
def test_only_the_texts_of_version_2_need_a_newer_server(engine, tmp_path):
    with served(engine, tmp_path) as address:
        check_version_2(f"{address}/old-{uuid.uuid4()}", tmp_path)


def check_version_2(location: str, tmp_path: Path) -> None:
    card = Card(ENCODER, load_schema().model_copy(update={"schema_version": 2}), DIM, schema_version=2)
    client, collection = connect(location, None)
    if tuple(map(int, client.info().version.split(".")[:2])) >= RANKING_TEXTS:
        pytest.skip("needs a Qdrant server before 1.20")
    engine, card = create_server(client, str(collection), location, card)
    with Store(engine, card, location) as store:
        store.upsert(batch())
        store.optimise()
    with create_store(location, schema=load_schema(), encoder=ENCODER, dim=DIM) as store:
        query = np.array([[0, 1, 0, 0]], np.float32)
        assert store.card == card
        assert [hit.id for hit in store.search(vectors=query, limit=1)[0]] == [IDS[2]]
        assert [hit.id for hit in store.search(vectors=query, holding=[["dog"]])[0]] == [IDS[4]]
        assert check_index(store, queries=6, k=2).recall == 1
        for mode in ("lexical", "hybrid"):
            with pytest.raises(StoreError, match=r"only Qdrant 1\.20 or later ranks, and the server is 1\.1\d: .*copy"):
                store.search(texts=["kite"], vectors=query, mode=mode)
        for copy in (f"{location}-copy", tmp_path / "copy"):
            copy_store(store, copy)
    for copy in (f"{location}-copy", tmp_path / "copy"):
        with open_store(copy) as store:
            assert [hit.id for hit in store.search(texts=["kite"], mode="lexical")[0]] == [IDS[3], IDS[0]]


@pytest.mark.parametrize("call", ["Create:1", "Create:2", "CreateFieldIndex:1"])
def test_an_old_server_completes_a_collection_whose_making_was_cut_short(oldest, call):
    with pytest.raises(StoreError, match="What was written is kept: start again"):
        create_store(oldest.start(dies_at=call).location, schema=load_schema(), encoder=ENCODER, dim=DIM)
    assert oldest.wait() == -signal.SIGKILL
    with create_store(oldest.start().location, schema=load_schema(), encoder=ENCODER, dim=DIM) as store:
        store.upsert(batch())
        assert [hit.id for hit in store.search(texts=["dog"], mode="lexical")[0]] == [IDS[4]]

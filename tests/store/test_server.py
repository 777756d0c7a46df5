"""The server engine's side of the wire, against gRPC and TCP servers of this file that fail as real ones do."""

from __future__ import annotations

import json
import socket
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import grpc
import numpy as np
import pytest
from qdrant_client import QdrantClient
from qdrant_client import grpc as wire
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse

from inputs.stores import DIM, ENCODER
from rag_clip.progress import ProgressEvent
from rag_clip.store import Card, StoreError, caption_id, load_schema, open_store
from rag_clip.store.check import require_ready
from rag_clip.store.rows import Rows
from rag_clip.store.server import POLL_SECONDS, REQUEST_BYTES, ServerEngine, cut_rows
from rag_clip.store.server_errors import ATTEMPTS, patiently

CARD = Card(ENCODER, load_schema(), DIM)


def make_rows(count: int, *, words: int = 1) -> Rows:
    texts = [f"{row} " + "word " * words for row in range(count)]
    ids = [caption_id("s", text) for text in texts]
    return Rows(ids, {"text": texts, "source": ["s"] * count}, {"text": np.ones((count, DIM), np.float32)})


class Points(wire.PointsServicer):
    """Takes points; fails as often, and with the code, as it is told."""

    def __init__(self, *failures: grpc.StatusCode) -> None:
        self.failures = list(failures)
        self.requests: list[list[str]] = []
        self.together = 0
        self.busy = 0
        self.lock = threading.Lock()
        self.streams = threading.Barrier(3)

    def Upsert(self, request, context):  # noqa: N802
        with self.lock:
            if self.failures:
                context.abort(self.failures.pop(0), "as told")
            self.requests.append([point.id.uuid for point in request.points])
        return wire.PointsOperationResponse(result=wire.UpdateResult(status=wire.UpdateStatus.Completed))


class SlowPoints(Points):
    """Answers only when three requests are there at once."""

    def Upsert(self, request, context):  # noqa: N802
        self.streams.wait(timeout=10)
        return super().Upsert(request, context)


class Health(wire.QdrantServicer):
    """Refuses every key."""

    def HealthCheck(self, _request, context):  # noqa: N802
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "Invalid API key or JWT")


@contextmanager
def serving(points: Points) -> Iterator[int]:
    """Serve on a free port of loopback and yield the port."""
    server = grpc.server(ThreadPoolExecutor(8))
    wire.add_PointsServicer_to_server(points, server)
    wire.add_QdrantServicer_to_server(Health(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait()


@contextmanager
def engine(port: int, pauses: list[float], rest_port: int = 6333) -> Iterator[ServerEngine]:
    ports: dict[str, Any] = {"host": "127.0.0.1", "port": rest_port, "grpc_port": port}
    client = QdrantClient(**ports, prefer_grpc=True, check_compatibility=False, timeout=10)
    engine = ServerEngine(client, "captions", CARD, pause=pauses.append)
    yield engine
    engine.close()


@contextmanager
def closing_every_connection() -> Iterator[int]:
    """Accept and hang up, as a proxy does whose server is gone."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return

        thread = threading.Thread(target=hang_up)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_rows_are_cut_into_requests_bounded_by_points_and_bytes():
    assert [len(part) for part in cut_rows(make_rows(600))] == [256, 256, 88]
    heavy = make_rows(20, words=REQUEST_BYTES // 5 // 4)
    parts = list(cut_rows(heavy))
    assert [len(part) for part in parts] == [3] * 6 + [2]
    assert [name for part in parts for name in part.ids] == heavy.ids
    assert [len(part) for part in cut_rows(make_rows(2, words=REQUEST_BYTES))] == [1, 1]


def test_three_requests_are_under_way_at_once_and_every_point_arrives():
    points, rows = SlowPoints(), make_rows(6 * 256)
    with serving(points) as port, engine(port, []) as server:
        server.upsert(rows)
    assert sorted(name for request in points.requests for name in request) == sorted(rows.ids)
    assert len(points.requests) == 6


def test_errors_that_pass_are_tried_again_after_growing_pauses():
    points = Points(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
    pauses: list[float] = []
    with serving(points) as port, engine(port, pauses) as server:
        server.upsert(make_rows(10))
    assert [len(request) for request in points.requests] == [10]
    bounds = [(0.25, 0.5), (0.5, 1.0), (1.0, 2.0)]
    assert [low <= pause <= high for pause, (low, high) in zip(pauses, bounds, strict=True)] == [True] * 3


def test_an_error_that_stays_is_not_tried_again():
    points, pauses = Points(grpc.StatusCode.INVALID_ARGUMENT), list[float]()
    with (
        serving(points) as port,
        engine(port, pauses) as server,
        pytest.raises(StoreError, match="failed on captions: as told"),
    ):
        server.upsert(make_rows(10))
    assert (pauses, points.requests) == ([], [])


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED])
def test_a_wrong_key_is_named_at_once(code):
    points, pauses = Points(code), list[float]()
    with (
        serving(points) as port,
        engine(port, pauses) as server,
        pytest.raises(StoreError, match=r"it refused the API key \(as told\); set QDRANT_API_KEY"),
    ):
        server.upsert(make_rows(1))
    assert pauses == []


def test_opening_with_a_wrong_key_says_so():
    with serving(Points()) as port, pytest.raises(StoreError, match="it refused the API key"):
        open_store(f"http://127.0.0.1:{port - 1}/captions")


def test_a_server_that_goes_away_between_requests_is_waited_for_and_then_named():
    points, pauses = Points(), list[float]()
    with serving(points) as port:
        pass
    with engine(port, pauses) as server, pytest.raises(StoreError, match=r"What was written is kept: start again"):
        server.upsert(make_rows(600))
    assert len(pauses) >= ATTEMPTS - 1


def test_a_connection_that_is_closed_at_once_is_named():
    pauses: list[float] = []
    with (
        closing_every_connection() as port,
        engine(port, pauses) as server,
        pytest.raises(StoreError, match=r"failed on captions: .*is it running, with gRPC reachable"),
    ):
        server.count()
    assert len(pauses) == ATTEMPTS - 1


def test_a_server_that_names_a_time_is_given_it():
    pauses: list[float] = []
    failures = [ResourceExhaustedResponse("busy", 30)]

    def call() -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert patiently(call, pause=pauses.append) == "done"
    assert pauses == [30]


class Collections(wire.CollectionsServicer):
    """A collection whose optimisers are asleep, run, and are done, a state each time it is asked."""

    def __init__(self) -> None:
        self.states = [(wire.Grey, 0), (wire.Yellow, 500), (wire.Green, 1000)]
        self.woken = 0

    def Get(self, _request, _context):  # noqa: N802
        status, indexed = self.states[0] if len(self.states) == 1 else self.states.pop(0)
        config = wire.CollectionConfig(
            params=wire.CollectionParams(
                vectors_config=wire.VectorsConfig(params=wire.VectorParams(size=DIM, distance=wire.Cosine))
            ),
            hnsw_config=wire.HnswConfigDiff(m=16, ef_construct=128, full_scan_threshold=100_000),
            optimizer_config=wire.OptimizersConfigDiff(
                deleted_threshold=0.2, vacuum_min_vector_number=1000, default_segment_number=0, flush_interval_sec=5
            ),
            wal_config=wire.WalConfigDiff(wal_capacity_mb=32, wal_segments_ahead=0),
        )
        info = wire.CollectionInfo(
            status=status,
            optimizer_status=wire.OptimizerStatus(ok=True),
            segments_count=2,
            points_count=1000,
            indexed_vectors_count=1000 + indexed,
            config=config,
        )
        return wire.GetCollectionInfoResponse(result=info)

    def Update(self, _request, _context):  # noqa: N802
        self.woken += 1
        return wire.CollectionOperationResponse(result=True)


class Optimisations(BaseHTTPRequestHandler):
    """Answers what the optimisers of a collection are at, as Qdrant 1.18.3 did."""

    path_of_optimisers = "/collections/captions/optimizations"

    def do_GET(self) -> None:
        begun: dict[str, Any] = {"started_at": "2026-12-01T04:35:48.825061189Z"}
        over: dict[str, Any] = {"finished_at": "2026-12-01T04:35:49Z"}
        graph: list[dict[str, Any]] = [
            {"name": "migrate", **begun, **over},
            {"name": "main_graph", **begun, "done": 500, "total": 1000},
        ]
        steps: list[dict[str, Any]] = [
            {"name": "copy_data", **begun, **over},
            {"name": "vector_index", **begun, "children": [{"name": "text", **begun, "children": graph}]},
            {"name": "sparse_vector_index"},
        ]
        works: list[tuple[str, dict[str, Any]]] = [("indexing", {"children": steps}), ("merge", {})]
        running: list[dict[str, Any]] = [
            {
                "uuid": str(uuid.UUID(int=number)),
                "optimizer": optimizer,
                "status": "optimizing",
                "segments": [{"uuid": str(uuid.UUID(int=3)), "points_count": 600}] * 2,
                "progress": {"name": "Segment Optimizing", **begun, **children},
            }
            for number, (optimizer, children) in enumerate(works)
        ]
        summary = {"queued_optimizations": 2, "queued_segments": 3, "queued_points": 4000, "idle_segments": 1}
        answer = json.dumps({"result": {"summary": summary, "running": running}, "status": "ok", "time": 0.0})
        self.send_response(200 if self.path.startswith(self.path_of_optimisers) else 404)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def optimising() -> Iterator[tuple[ServerEngine, Collections, list[float]]]:
    collections, pauses = Collections(), list[float]()
    server = grpc.server(ThreadPoolExecutor(1))
    wire.add_CollectionsServicer_to_server(collections, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with HTTPServer(("127.0.0.1", 0), Optimisations) as rest:
        thread = threading.Thread(target=rest.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        with engine(port, pauses, rest.server_port) as opened:
            yield opened, collections, pauses
        rest.shutdown()
        thread.join()
    server.stop(None).wait()


def test_optimising_wakes_the_server_and_waits_until_it_is_done(optimising):
    server, collections, pauses = optimising
    events: list[ProgressEvent] = []
    server.optimise(events.append)
    assert [(event.done, event.total, event.unit) for event in events] == [
        (0, 1000, "vectors"),
        (500, 1000, "vectors"),
        (1000, 1000, "vectors"),
    ]
    assert (collections.woken, pauses) == (1, [POLL_SECONDS] * 2)


def test_info_says_what_the_optimisers_are_at_until_they_are_done(optimising):
    server, _collections, _pauses = optimising
    found = [server.info() for _ in range(3)]
    assert [info["status"] for info in found] == ["not optimised", "optimising", "ready"]
    at_work = [
        "indexing of 1,200 points: main graph, 500 of 1,000",
        "merge of 1,200 points: segment optimizing",
        "2 waiting, 4,000 points",
    ]
    assert [info["optimisers"] for info in found] == [at_work, at_work, []]


def test_an_older_server_does_not_tell_what_its_optimisers_are_at(optimising, monkeypatch):
    server, collections, pauses = optimising
    collections.states = [(wire.Yellow, 500)]
    monkeypatch.setattr(Optimisations, "path_of_optimisers", "/nowhere")  # before 1.17 the answer is 404
    info = server.info()
    assert (info["status"], info["optimisers"], pauses) == ("optimising", [], [])


def test_an_index_whose_optimisers_run_is_not_checked(optimising):
    server, collections, _pauses = optimising
    collections.states = [(wire.Yellow, 500)]
    message = r"is optimising \(indexing of 1,200 points: main graph, .* 4,000 points\): optimise it, and check it when"
    with pytest.raises(StoreError, match=message):
        require_ready(server.info() | {"location": "http://host:6333"})

"""A stand-in for the Qdrant server process: Qdrant's gRPC on the wire, Qdrant's own local engine behind it.

It is a real process on a real port, it keeps its points on disk, so it can be killed and started again, and it checks
an API key as Qdrant does. It is not the server: there are no optimisers, no graphs, no shards and no replicas, and only
the calls that our engine makes are answered. What a version of Qdrant lacks it lacks too: before 1.20 it does not rank
texts, before 1.16 it forgets the metadata of a collection. It returns metadata in another order than it got it, as
Qdrant may.

qdrant_process.py starts it, and asks it on its standard input.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from qdrant_client import grpc as wire
from qdrant_client import models
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc, grpc_to_payload
from qdrant_client.local.qdrant_local import QdrantLocal

KEYLESS = "/qdrant.Qdrant/HealthCheck"


class Engine:
    """The local engine, one call at a time, with the key that it asks for and the call that it dies in."""

    def __init__(self, folder: str, *, version: str, dies_at: str, together: int) -> None:
        self.version = version
        self.ranks_texts, self.keeps_metadata = (
            tuple(map(int, version.split(".")[:2])) >= since for since in ((1, 20), (1, 16))
        )
        self.local = QdrantLocal(folder, force_disable_check_same_thread=True)
        for name in self.local.collections:
            self.hurry(name)
        self.together = threading.Barrier(together)
        self._dies_at = dies_at
        self._calls: Counter[str] = Counter()
        self._lock = threading.Lock()

    def hurry(self, collection: str) -> None:
        """Leave writes to the operating system, point for point; it keeps them when this process is killed."""
        storage = self.local.collections[collection].storage
        assert storage is not None
        storage.storage.execute("PRAGMA journal_mode=WAL")
        storage.storage.execute("PRAGMA synchronous=OFF")

    def call(self, method: str, context: grpc.ServicerContext, request: Any, answer: Any) -> Any:
        """Answer a request, with the codes that Qdrant gives what its local engine raises."""
        with self._lock:
            self._calls[method] += 1
            dying = f"{method}:{self._calls[method]}" == self._dies_at
            if dying and method == "Upsert":
                del request.points[len(request.points) // 2 :]
            try:
                answered = answer(request)
            except ValueError as error:
                found = {"not found": grpc.StatusCode.NOT_FOUND, "already exists": grpc.StatusCode.ALREADY_EXISTS}
                codes = [code for words, code in found.items() if words in str(error)]
                context.abort(*codes or [grpc.StatusCode.INVALID_ARGUMENT], str(error))
            if dying:
                os.kill(os.getpid(), signal.SIGKILL)
            return answered


class Health(wire.QdrantServicer):
    def __init__(self, version: str) -> None:
        self._version = version

    def HealthCheck(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return wire.HealthCheckReply(title="stand-in for qdrant", version=self._version)


class Collections(wire.CollectionsServicer):
    def __init__(self, engine: Engine) -> None:
        self._engine, self._local = engine, engine.local

    def CollectionExists(self, request: Any, context: Any) -> Any:  # noqa: N802
        def exists(request: Any) -> Any:
            found = self._local.collection_exists(request.collection_name)
            return wire.CollectionExistsResponse(result=wire.CollectionExists(exists=found))

        return self._engine.call("CollectionExists", context, request, exists)

    def Get(self, request: Any, context: Any) -> Any:  # noqa: N802
        def get(request: Any) -> Any:
            info = self._local.get_collection(request.collection_name)
            info.config.metadata = reordered(info.config.metadata)
            return wire.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(info))

        return self._engine.call("GetCollection", context, request, get)

    def Create(self, request: Any, context: Any) -> Any:  # noqa: N802
        def create(request: Any) -> Any:
            vectors = GrpcToRest.convert_vectors_config(request.vectors_config)
            sparse = None
            if request.HasField("sparse_vectors_config"):
                sparse = GrpcToRest.convert_sparse_vector_config(request.sparse_vectors_config)
            metadata = grpc_to_payload(request.metadata) if self._engine.keeps_metadata else None
            self._local.create_collection(
                request.collection_name, vectors, sparse_vectors_config=sparse, metadata=metadata
            )
            self._engine.hurry(request.collection_name)
            return wire.CollectionOperationResponse(result=True)

        return self._engine.call("Create", context, request, create)

    def Update(self, request: Any, context: Any) -> Any:  # noqa: N802
        def update(request: Any) -> Any:
            metadata = grpc_to_payload(request.metadata) if self._engine.keeps_metadata else None
            self._local.update_collection(request.collection_name, metadata=metadata or None)
            return wire.CollectionOperationResponse(result=True)

        return self._engine.call("Update", context, request, update)


class Points(wire.PointsServicer):
    def __init__(self, engine: Engine) -> None:
        self._engine, self._local = engine, engine.local

    def CreateFieldIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        def index(request: Any) -> Any:
            if request.HasField("field_index_params"):
                kind: Any = GrpcToRest.convert_payload_schema_params(request.field_index_params)
            else:
                kind = models.PayloadSchemaType(
                    wire.FieldType.Name(request.field_type).removeprefix("FieldType").lower()
                )
            self._local.create_payload_index(request.collection_name, request.field_name, kind)
            return _done()

        return self._engine.call("CreateFieldIndex", context, request, index)

    def Upsert(self, request: Any, context: Any) -> Any:  # noqa: N802
        def upsert(request: Any) -> Any:
            points = [GrpcToRest.convert_point_struct(point) for point in request.points]
            self._local.upsert(request.collection_name, points)
            return _done()

        self._engine.together.wait(timeout=60)
        return self._engine.call("Upsert", context, request, upsert)

    def Get(self, request: Any, context: Any) -> Any:  # noqa: N802
        def get(request: Any) -> Any:
            ids = [GrpcToRest.convert_point_id(point) for point in request.ids]
            vectors = GrpcToRest.convert_with_vectors_selector(request.with_vectors)
            found = self._local.retrieve(request.collection_name, ids, with_payload=True, with_vectors=vectors)
            return wire.GetResponse(result=map(RestToGrpc.convert_retrieved_point, found))

        return self._engine.call("Get", context, request, get)

    def Scroll(self, request: Any, context: Any) -> Any:  # noqa: N802
        def scroll(request: Any) -> Any:
            records, following = self._local.scroll(
                request.collection_name,
                offset=GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None,
                limit=request.limit,
                with_vectors=GrpcToRest.convert_with_vectors_selector(request.with_vectors),
            )
            return wire.ScrollResponse(
                result=map(RestToGrpc.convert_retrieved_point, records),
                next_page_offset=None if following is None else RestToGrpc.convert_extended_point_id(following),
            )

        return self._engine.call("Scroll", context, request, scroll)

    def Count(self, request: Any, context: Any) -> Any:  # noqa: N802
        def count(request: Any) -> Any:
            return wire.CountResponse(result=wire.CountResult(count=self._local.count(request.collection_name).count))

        return self._engine.call("Count", context, request, count)

    def QueryBatch(self, request: Any, context: Any) -> Any:  # noqa: N802
        def query(request: Any) -> Any:
            if not self._engine.ranks_texts and any(query.query.HasField("text") for query in request.query_points):
                raise ValueError("this version cannot rank texts")
            queries = [GrpcToRest.convert_query_points(query) for query in request.query_points]
            found = self._local.query_batch_points(request.collection_name, queries)
            results = [map(RestToGrpc.convert_scored_point, answer.points) for answer in found]
            return wire.QueryBatchResponse(result=[wire.BatchResult(result=result) for result in results])

        return self._engine.call("QueryBatch", context, request, query)


def reordered(values: Any) -> Any:
    """Return values with the keys of every mapping in the reverse order of their letters."""
    if isinstance(values, dict):
        return {name: reordered(values[name]) for name in sorted(values, reverse=True)}
    return values


def _done() -> Any:
    return wire.PointsOperationResponse(result=wire.UpdateResult(status=wire.UpdateStatus.Completed))


class KeyCheck(grpc.ServerInterceptor):  # type: ignore[misc]  # gRPC has no types
    """Asks for the key in every call but the health check, as Qdrant does."""

    def __init__(self, key: str) -> None:
        self._key = key

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        if not self._key or details.method == KEYLESS or ("api-key", self._key) in details.invocation_metadata:
            return continuation(details)
        return grpc.unary_unary_rpc_method_handler(
            lambda _request, context: context.abort(grpc.StatusCode.UNAUTHENTICATED, "Invalid API key or JWT")
        )


def serve(folder: str, port: int, key: str, version: str, dies_at: str, together: int) -> None:
    """Serve until killed, or left behind; tells the process and the port when it listens."""
    parent = os.getppid()
    warnings.filterwarnings("ignore", "Payload indexes have no effect", UserWarning)
    engine = Engine(folder, version=version, dies_at=dies_at, together=together)
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[KeyCheck(key)], options=[("grpc.so_reuseport", 0)])
    wire.add_QdrantServicer_to_server(Health(version), server)
    wire.add_CollectionsServicer_to_server(Collections(engine), server)
    wire.add_PointsServicer_to_server(Points(engine), server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    answer([os.getpid(), bound])
    while os.getppid() == parent:
        server.wait_for_termination(timeout=1)


def ended(process: int) -> int | None:
    """Return the exit code of a server, negative for a signal, or None while it runs; it is told once."""
    found, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def answer(values: list[int | None]) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Start servers as asked on standard input, a line each; they end when this process does."""
    for line in sys.stdin:
        verb, *facts = json.loads(line)
        if verb == "ended":
            answer([ended(*facts)])
        elif os.fork() == 0:
            try:
                serve(*facts)
            except BaseException:
                traceback.print_exc()
                answer([])
            os._exit(2)


if __name__ == "__main__":
    main()

"""The process that runs the embedded engine: it reads requests from standard input and writes answers to its output.

The engine keeps Python's global interpreter lock while it optimises and searches, so it needs its own interpreter. This
file is started by path and imports only the lock from the package, so that it does not load torch. At the end of its
input it flushes everything and stops.
"""

import os
import pickle
import signal
import sys
import time
from pathlib import Path
from typing import IO, Any

import numpy as np
import qdrant_edge as edge

from rag_clip.files.lock import try_lock

Where = dict[str, list[str] | tuple[float | None, float | None]]
Holding = list[list[str]]
Ranking = list[tuple[str, float, str, str]]
Sparse = tuple[list[int], list[float]]
Records = tuple[list[str], list[dict[str, Any]], dict[str, np.ndarray]]

SPARSE = "bm25"
LOCK_PATIENCE = 1.0
UPSERT_POINTS = 256
READ_BYTES = 1 << 20
VALUE_BYTES = {"float32": 4, "float16": 2}


class Shard:
    """The requests that the process answers, one method each."""

    def __init__(self) -> None:
        self.opened: edge.EdgeShard | None = None
        self.lock: IO[str] | None = None
        self.segment_rows = 0
        self.growing = 0
        self.sparse = False
        self.names: list[str] = []

    @property
    def shard(self) -> edge.EdgeShard:
        """The open shard; call `create` or `load` first."""
        assert self.opened is not None, "no shard is open"
        return self.opened

    def acquire(self, folder: str) -> str | None:
        """Lock the folder for this process; return None, or the id of the process that has locked it."""
        file = (Path(folder) / "lock").open("a+")
        give_up = time.monotonic() + LOCK_PATIENCE
        while not try_lock(file.fileno(), shared=False):
            if time.monotonic() > give_up:
                file.seek(0)
                return file.read() or "unknown"
            time.sleep(0.05)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self.lock = file
        return None

    def create(self, folder: str, schema: dict[str, Any], dim: int, segment_rows: int) -> None:
        """Create an empty shard; payload indexes are created first, since filters on later ones are slow."""
        Path(folder).mkdir()
        self.opened = edge.EdgeShard.create(folder, _config(schema, dim, segment_rows))
        self.segment_rows = segment_rows
        self.names, self.sparse = [vector["name"] for vector in schema["vectors"]], _ranks_sparse(schema)
        for name, index in schema["payload"].items():
            self.shard.update(edge.UpdateOperation.create_field_index(name, _index(index, scoring=not self.sparse)))
        self.shard.flush()

    def load(self, folder: str, names: list[str], sparse: bool, segment_rows: int) -> None:
        """Open a shard, and replay the log of an interrupted run."""
        read_first(Path(folder) / "segments", memory=_memory() // 2)
        self.opened = edge.EdgeShard.load(folder)
        self.segment_rows = segment_rows
        self.names, self.sparse = names, sparse
        facts = self.info()
        self.growing = facts["points"] - facts["indexed"] // len(names)

    def upsert(
        self, ids: list[str], payload: dict[str, list[Any]], vectors: dict[str, np.ndarray], sparse: list[Sparse] | None
    ) -> bool:
        """Write points in batches of 256, the fastest size measured; return whether it is time to optimise.

        A growing segment keeps ids and text index in memory, whatever the configuration says.
        """
        for start in range(0, len(ids), UPSERT_POINTS):
            part = slice(start, start + UPSERT_POINTS)
            payloads = _transpose({name: values[part] for name, values in payload.items()})
            embeddings = _transpose({name: matrix[part].tolist() for name, matrix in vectors.items()})
            for embedding, (indices, values) in zip(embeddings, sparse[part] if sparse else [], strict=bool(sparse)):
                if indices:
                    embedding[SPARSE] = edge.SparseVector(indices, values)
            rows = zip(ids[part], embeddings, payloads, strict=True)
            points = [
                edge.Point(name, vector, {field: value for field, value in fields.items() if value is not None})
                for name, vector, fields in rows
            ]
            self.shard.update(edge.UpdateOperation.upsert_points(points))
        self.growing += len(ids)
        return self.growing >= self.segment_rows

    def rank_vectors(
        self, vectors: np.ndarray, limit: int, using: str, exact: bool, ef: int, where: Where, holding: Holding
    ) -> list[Ranking]:
        """Rank by similarity."""
        rescore = edge.QuantizationSearchParams(rescore=True, oversampling=2.0)
        params = edge.SearchParams(hnsw_ef=max(ef, limit), exact=exact, quantization=rescore)
        queries = [edge.Query.Nearest(vector, using=using) for vector in vectors.tolist()]
        return self._rank(queries, limit, where, holding, params)

    def rank_texts(self, texts: list[str], limit: int, where: Where, holding: Holding) -> list[Ranking]:
        """Rank by the engine's BM25 over its text index, for indexes without sparse vectors."""
        return self._rank([edge.TextQuery("text", text) for text in texts], limit, where, holding, None)

    def rank_sparse(self, queries: list[Sparse], limit: int, where: Where, holding: Holding) -> list[Ranking]:
        """Rank by BM25 as products of sparse vectors."""
        nearest = [edge.Query.Nearest(edge.SparseVector(*query), using=SPARSE) for query in queries]
        return self._rank(nearest, limit, where, holding, None)

    def _rank(
        self, queries: list[Any], limit: int, where: Where, holding: Holding, params: edge.SearchParams | None
    ) -> list[Ranking]:
        requests = [
            edge.QueryRequest(
                limit=limit, query=query, filter=_filter(where, phrases), params=params, with_payload=True
            )
            for query, phrases in zip(queries, holding, strict=True)
        ]
        return [[_hit(point) for point in found] for found in self.shard.query_batch(edge.QueryBatchRequest(requests))]

    def fetch(self, ids: list[str], using: str | None) -> Records:
        """Return ids, payloads and the vectors `using`, if given, of the existing points."""
        return _records(self.shard.retrieve(list(ids), True, [using] if using else False))

    def scroll(self, start: str | None, limit: int, vectors: bool) -> tuple[Records, str | None]:
        """Return ids, payloads, vectors by name if requested, and the next id."""
        request = edge.ScrollRequest(
            offset=start, limit=limit, with_payload=True, with_vector=self.names if vectors else False
        )
        records, following = self.shard.scroll(request)
        return _records(records), None if following is None else str(following)

    def count(self) -> int:
        """Return the exact number of points."""
        return self.shard.count(edge.CountRequest(exact=True))

    def optimise(self) -> None:
        """Merge segments, and build graphs above the schema's threshold."""
        self.shard.optimize()
        self.shard.flush()
        self.growing = 0

    def info(self) -> dict[str, int]:
        """Return the number of points, segments and vectors in graphs."""
        info = self.shard.info()
        points = self.shard.count(edge.CountRequest(exact=True))
        sparse = 0
        if self.sparse:  # the engine counts them as indexed at once
            held = edge.Filter(must=[edge.HasVectorCondition(SPARSE)])
            sparse = self.shard.count(edge.CountRequest(filter=held, exact=True))
        return {"points": points, "segments": info.segments_count, "indexed": info.indexed_vectors_count - sparse}

    def close(self) -> None:
        """Flush and close the shard; a second call does nothing."""
        shard, self.opened = self.opened, None
        if shard is not None:
            shard.flush()
            shard.close()


def read_first(folder: Path, *, memory: int) -> int:
    """Read all files of a folder in order, so that they are in the page cache, and return their bytes.

    The engine maps its files and touches them page by page, which takes several times as long. It makes them larger
    than what they store, 170 MB for an empty index; these holes are not read. Files that would fill more than `memory`
    bytes are left to it; returns 0 then.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    stored = {file: stored_ranges(file) for file in files}
    size = sum(end - start for ranges in stored.values() for start, end in ranges)
    if size > memory:
        return 0
    part = memoryview(bytearray(READ_BYTES))
    for file, ranges in stored.items():
        with file.open("rb", buffering=0) as content:
            for start, end in ranges:
                content.seek(start)
                while start < end and (count := content.readinto(part[: end - start])):
                    start += count
    return size


def stored_ranges(file: Path) -> list[tuple[int, int]]:
    """Return start and end in bytes of each range of a sparse file that is no hole; all of it where nothing tells."""
    with file.open("rb", buffering=0) as content:
        end, size = 0, content.seek(0, os.SEEK_END)
        if not hasattr(os, "SEEK_DATA"):
            return [(0, size)]
        ranges = []
        while end < size:
            try:
                start = content.seek(end, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole is left
                break
            end = content.seek(start, os.SEEK_HOLE)
            ranges.append((start, end))
        return ranges


def _memory() -> int:
    """Return the bytes of physical memory; 0 where the system does not say."""
    names = getattr(os, "sysconf_names", {})
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_PHYS_PAGES" in names else 0


def _hit(point: edge.ScoredPoint) -> tuple[str, float, str, str]:
    payload: Any = point.payload
    return str(point.id), point.score, payload["text"], payload["source"]


def _records(records: list[edge.Record]) -> Records:
    found: list[Any] = [record.vector for record in records if record.vector]
    matrices = {name: np.asarray([vector[name] for vector in found], np.float32) for name in (found or [()])[0]}
    return [str(record.id) for record in records], [record.payload or {} for record in records], matrices


def _transpose(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _filter(where: Where, phrases: list[str]) -> edge.Filter | None:
    conditions: list[Any] = [_condition(field, wanted) for field, wanted in where.items()]
    any_phrase: list[Any] = [edge.FieldCondition("text", match=edge.MatchText(phrase)) for phrase in phrases]
    return edge.Filter(must=conditions, should=any_phrase or None) if conditions or any_phrase else None


def _condition(field: str, wanted: list[str] | tuple[float | None, float | None]) -> edge.FieldCondition:
    if isinstance(wanted, list):
        return edge.FieldCondition(field, match=edge.MatchAny(wanted))
    return edge.FieldCondition(field, range=edge.RangeFloat(gte=wanted[0], lte=wanted[1]))


def _config(schema: dict[str, Any], dim: int, segment_rows: int) -> edge.EdgeConfig:
    hnsw = schema["hnsw"]
    width = max(VALUE_BYTES[vector["datatype"]] for vector in schema["vectors"])
    segment = segment_rows * dim * width // 1024
    threshold = min(hnsw["full_scan_threshold"], segment - 1)
    return edge.EdgeConfig(
        vectors={vector["name"]: _vector(vector, dim) for vector in schema["vectors"]},
        hnsw_config=edge.HnswIndexConfig(hnsw["m"], hnsw["ef_construct"], threshold),
        quantization_config=_quantization(schema["quantization"]["kind"]),
        sparse_vectors={SPARSE: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf, memory=edge.Memory.Cached)}
        if _ranks_sparse(schema)
        else None,
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=threshold, max_segment_size=segment),
        id_tracker_memory=edge.Memory.Cold,
    )


def _quantization(kind: str) -> edge.ScalarQuantizationConfig | edge.TurboQuantQuantizationConfig | None:
    if kind == "int8":
        return edge.ScalarQuantizationConfig(edge.ScalarType.Int8, quantile=0.99)
    if kind == "turbo4":
        return edge.TurboQuantQuantizationConfig(bits=edge.TurboQuantBitSize.Bits4)
    return None


def _vector(vector: dict[str, Any], dim: int) -> edge.EdgeVectorParams:
    datatypes = {"float32": edge.VectorStorageDatatype.Float32, "float16": edge.VectorStorageDatatype.Float16}
    return edge.EdgeVectorParams(
        dim,
        {"cosine": edge.Distance.Cosine, "dot": edge.Distance.Dot}[vector["distance"]],
        datatype=datatypes[vector["datatype"]],
        memory=edge.Memory.Cold if vector["on_disk"] else edge.Memory.Cached,
    )


def _ranks_sparse(schema: dict[str, Any]) -> bool:
    return bool(schema["schema_version"] >= 3)


def _index(index: dict[str, Any], *, scoring: bool) -> Any:
    plain = {"keyword": edge.KeywordIndexParams, "integer": edge.IntegerIndexParams, "float": edge.FloatIndexParams}
    if index["kind"] in plain:
        return plain[index["kind"]](memory=edge.Memory.Cold)
    tokenizer = getattr(edge.TokenizerType, index["tokenizer"].capitalize())
    return edge.TextIndexParams(
        tokenizer=tokenizer, lowercase=index["lowercase"], scoring=scoring, memory=edge.Memory.Cold
    )


def serve() -> None:
    """Answer each (operation, arguments) with (True, result) or (False, reason), until the input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that prints of the engine do not mix with the answers
    shard = Shard()
    try:
        while True:
            operation, arguments = pickle.load(sys.stdin.buffer)
            try:
                answer = (True, getattr(shard, operation)(**arguments))
            except BaseException as error:  # a panic of the engine is not an Exception
                answer = (False, f"{type(error).__name__}: {error}")
            pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
            answers.flush()
    except (EOFError, pickle.UnpicklingError, BrokenPipeError):  # the caller is gone, perhaps within a request
        pass
    finally:
        shard.close()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve()

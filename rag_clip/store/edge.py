"""The embedded engine: a Qdrant shard in a folder, run in a separate process.

A growing segment is in memory, at 0.6-1.1 kB per caption; at 250,000 captions it is optimised and then stays on disk.
LOCATION/card.json describes the index, LOCATION/shard belongs to the engine, LOCATION/postings to the Store, and
LOCATION/lock names the process that has locked it. The card is written last, so a folder without a card has no
captions. The engine writes to the files that it opens, so a read-only index is first copied to a temporary folder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from rag_clip.files.atomic import scratch_folder
from rag_clip.files.folders import make_folder, sync_folder
from rag_clip.files.reading import parse_json
from rag_clip.files.regular import is_regular
from rag_clip.progress import ProgressEvent, Report, silent
from rag_clip.store.card import Card, read_card
from rag_clip.store.interface import Holding, Ranking, StoreError
from rag_clip.store.lexical import Lexical, spread
from rag_clip.store.process import EngineProcess
from rag_clip.store.read_only import copy_index, is_writable
from rag_clip.store.rows import Rows
from rag_clip.store.schema import CollectionSchema, Where

SEGMENT_ROWS = 250_000
SHARD_FILES = {"edge_config.json", "segments", "wal"}
OUR_FILES = {"lock", "shard", "card.json.part", "postings", "postings.part"}


class EdgeEngine:
    """An index in a folder, locked by one process at a time."""

    def __init__(
        self,
        folder: Path,
        process: EngineProcess,
        card: Card,
        *,
        segment_rows: int = SEGMENT_ROWS,
        copy: ExitStack | None = None,
    ) -> None:
        self._folder = folder
        self._process = process
        self._schema = card.schema
        self._dim = card.dim
        self._segment_rows = segment_rows
        self._copy = copy
        self._count: int | None = None
        self._lexical = Lexical(card.schema) if card.schema.ranks_sparse else None

    @property
    def postings(self) -> Path:
        """The folder of the postings, in that of the index."""
        return self._folder / "postings"

    def upsert(self, rows: Rows) -> None:
        """Write rows; they are in the engine's log when this returns.

        A call that fills a segment also optimises it and restarts the process, which returns all memory to the system;
        the allocator of a long-lived process would keep it in fragments.
        """
        self._check_writable()
        sparse = None if self._lexical is None else self._lexical.documents(rows.payload["text"])
        arguments = {"ids": rows.ids, "payload": rows.payload, "vectors": rows.vectors, "sparse": sparse}
        try:
            filled = self._process.ask("upsert", arguments)
        finally:
            self._count = None
        if filled:
            self.optimise(silent)
            self._process.close()
            self._process = _open_shard(self._folder, self._schema, self._segment_rows)

    def rank_vectors(
        self, vectors: np.ndarray, limit: int, *, using: str, exact: bool, where: Where, holding: Holding
    ) -> list[Ranking]:
        """Rank by similarity."""
        arguments = {"vectors": vectors, "using": using, "exact": exact, "ef": self._schema.hnsw.ef}
        bounds = {"limit": limit, "where": dict(where), "holding": holding}
        return self._process.ask("rank_vectors", arguments | bounds)  # type: ignore[no-any-return]

    def rank_texts(self, texts: Sequence[str], limit: int, *, where: Where, holding: Holding) -> list[Ranking]:
        """Rank by sparse vectors; by the engine's BM25 over its text index where the schema is older."""
        if self._lexical is not None:
            queries = self._lexical.queries(texts)
            worded = [row for row, (indices, _values) in enumerate(queries) if indices]
            asked = {"queries": [queries[row] for row in worded], "holding": [holding[row] for row in worded]}
            bounds = {"limit": limit, "where": dict(where)}
            return spread(self._process.ask("rank_sparse", asked | bounds) if worded else [], queries)
        arguments = {"texts": list(texts), "limit": limit, "where": dict(where), "holding": holding}
        return self._process.ask("rank_texts", arguments)  # type: ignore[no-any-return]

    def fetch(self, ids: Sequence[str], *, using: str | None = None) -> Rows:
        """Return the captions that exist."""
        return self._rows(*self._process.ask("fetch", {"ids": list(ids), "using": using}))

    def scroll(self, start: str | None, limit: int, *, vectors: bool) -> tuple[Rows, str | None]:
        """Return captions in id order."""
        arguments = {"start": start, "limit": limit, "vectors": vectors}
        records, following = self._process.ask("scroll", arguments)
        return self._rows(*records), following

    def count(self) -> int:
        """Return the exact number of captions, counted anew after each write; no other process can write meanwhile.

        The engine takes a quarter of a second for a million.
        """
        if self._count is None:
            self._count = int(self._process.ask("count"))
        return self._count

    def optimise(self, report: Report) -> None:
        """Merge and index; the engine reports nothing meanwhile, so progress is in elapsed seconds."""
        self._check_writable()
        self._process.ask(
            "optimise", waiting=lambda elapsed: report(ProgressEvent("optimise", int(elapsed), unit="seconds"))
        )

    def info(self) -> dict[str, Any]:
        """Return facts of the shard and its size on disk; waits while the engine is optimising."""
        size = sum(file.stat().st_blocks * 512 for file in self._folder.rglob("*") if file.is_file())
        facts = self._process.ask("info")
        unindexed = facts.pop("points") - facts["indexed"] / len(self._schema.vectors)
        waiting = not self._schema.is_small(unindexed, self._dim)
        return {"engine": "edge", "status": "not optimised" if waiting else "ready", "bytes": size, **facts}

    def write_card(self, card: Card) -> None:
        """Replace card.json."""
        self._check_writable()
        _write_json(self._folder, card.to_dict())

    def close(self) -> None:
        """Flush everything and end the process."""
        self._process.close()
        if self._copy is not None:
            self._copy.close()

    def _check_writable(self) -> None:
        if self._copy is not None:
            raise StoreError(f"the index at {self._folder} may not be written to; it can only be read from")

    def _rows(self, ids: list[str], payloads: list[dict[str, Any]], vectors: dict[str, np.ndarray]) -> Rows:
        fields = ("text", "source", *self._schema.extra)
        return Rows(ids, {field: [payload.get(field) for payload in payloads] for field in fields}, vectors)


def open_edge(location: str) -> tuple[EdgeEngine, Card]:
    """Open an index; raises FileNotFoundError, ValueError if the folder is not an index, StoreError if it is in use."""
    folder = Path(location)
    if not folder.exists():
        raise FileNotFoundError(
            f"no index at {location}; make one with: rag-clip index build CAPTIONS --index {location}"
        )
    if not is_regular(folder / "card.json"):
        raise ValueError(f"{location} is not an index: it has no card.json")
    if not is_writable(folder):
        return _open_copy(folder, location)
    process = _hold(folder)
    try:
        card = read_card(_read_json(folder), location)
        _load(process, folder, card.schema)
    except BaseException:
        process.close()
        raise
    return EdgeEngine(folder, process, card), card


def _open_copy(folder: Path, location: str) -> tuple[EdgeEngine, Card]:
    with ExitStack() as stack:
        space = stack.enter_context(scratch_folder())
        card = read_card(_read_json(folder), location)
        copy_index(folder, space)
        process = EngineProcess()
        stack.callback(process.close)
        _load(process, space, card.schema)
        return EdgeEngine(folder, process, card, copy=stack.pop_all()), card


def create_edge(location: str, wanted: Card) -> tuple[EdgeEngine, Card]:
    """Create an empty index, or open an existing one; raises ValueError for a folder with other files in it."""
    folder = Path(location)
    if (folder / "card.json").is_file():
        return open_edge(location)
    _make_folder(folder)
    process = _hold(folder)
    try:
        if (folder / "card.json").is_file():  # made by another process while this one waited for the lock
            process.close()
            return open_edge(location)
        _remove_begun(folder / "shard")
        arguments = {"schema": wanted.schema.model_dump(), "dim": wanted.dim, "segment_rows": SEGMENT_ROWS}
        process.ask("create", {"folder": str(folder / "shard"), **arguments})
        _write_json(folder, wanted.to_dict())
    except BaseException:
        process.close()
        raise
    return EdgeEngine(folder, process, wanted), wanted


def _remove_begun(shard: Path) -> None:
    """Delete an unfinished shard; raises ValueError for a folder of that name with other content."""
    foreign = sorted({entry.name for entry in shard.iterdir()} - SHARD_FILES) if shard.is_dir() else []
    if foreign:
        raise ValueError(f"{shard} holds {foreign[0]}, which is no part of an index; give a new or empty folder")
    shutil.rmtree(shard, ignore_errors=True)


def _open_shard(folder: Path, schema: CollectionSchema, segment_rows: int) -> EngineProcess:
    process = _hold(folder)
    try:
        _load(process, folder, schema, segment_rows)
    except BaseException:
        process.close()
        raise
    return process


def _load(process: EngineProcess, folder: Path, schema: CollectionSchema, segment_rows: int = SEGMENT_ROWS) -> None:
    names = [vector.name for vector in schema.vectors]
    arguments = {"names": names, "sparse": schema.ranks_sparse, "segment_rows": segment_rows}
    process.ask("load", {"folder": str(folder / "shard"), **arguments})


def _make_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for the index")
    make_folder(folder)
    foreign = sorted({entry.name for entry in folder.iterdir()} - OUR_FILES)
    if foreign:
        raise ValueError(f"{folder} is not empty ({foreign[0]}) and not an index; give a new or empty folder")


def _hold(folder: Path) -> EngineProcess:
    process = EngineProcess()
    try:
        holder = process.ask("acquire", {"folder": str(folder.resolve())})
        if holder is not None:
            raise StoreError(
                f"the index at {folder} is in use by process {holder}; close it there, or wait until it ends"
            )
    except BaseException:
        process.close()
        raise
    return process


def _read_json(folder: Path) -> dict[str, Any]:
    try:
        values = parse_json((folder / "card.json").read_bytes())
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
    except ValueError as error:
        raise ValueError(f"{folder / 'card.json'} is damaged ({error}): build the index again") from None
    return values


def _write_json(folder: Path, values: dict[str, Any]) -> None:
    part = folder / "card.json.part"
    with part.open("w", encoding="utf-8") as file:
        json.dump(values, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / "card.json")
    sync_folder(folder)

"""Snapshots of an index: one Parquet file with every row, vector and the card, the same for a folder and a server.

It holds what was given, not the engine's files: so a snapshot of a folder restores to a server, and to later versions
of either; graphs and postings are built again. Nothing is embedded again.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rag_clip.files.atomic import replacing
from rag_clip.files.sealed import checksum
from rag_clip.progress import ProgressEvent, Report, silent
from rag_clip.store.card import Card, read_card
from rag_clip.store.copying import check_layout
from rag_clip.store.interface import StoreError
from rag_clip.store.opening import create_store
from rag_clip.store.schema import CollectionSchema
from rag_clip.store.store import Store

ROWS = 4096
CARD, SEAL, COUNT = b"rag_clip.card", b"rag_clip.rows_checksum", b"rag_clip.rows"
NOTE = "restore"


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    """The result of a snapshot or a restore: the index, the file, its rows and the checksum over them."""

    index: str
    file: str
    count: int
    checksum: int


def snapshot_index(store: Store, path: str | Path, *, report: Report = silent) -> SnapshotReport:
    """Write every row of an index and its card to a file, which appears once it is complete.

    Raises FileExistsError for an existing file, ValueError for an empty index, and StoreError where the index was
    written to meanwhile.
    """
    path = Path(path)
    check_free(path)
    total, done, crc = store.count(), 0, 0
    if not total:
        raise ValueError(f"the index at {store.location} holds no captions; there is nothing to keep")
    pages = store.scroll(batch_size=ROWS, vectors=True, payload=True)
    first = next(pages)
    with replacing(path) as partial, pq.ParquetWriter(partial, first.schema, write_page_checksum=True) as writer:
        for page in _chain(first, pages):
            writer.write_batch(page)
            crc, done = _add(crc, page), done + page.num_rows
            report(ProgressEvent("snapshot", done, total))
        if done != total or store.count() != total:
            raise StoreError(f"the index at {store.location} was written to meanwhile; make the snapshot again")
        card = json.dumps(store.card.to_dict())
        crc = zlib.crc32(card.encode(), crc)
        facts = {CARD: card, SEAL: str(crc), COUNT: str(done)}
        writer.add_key_value_metadata({key.decode(): value for key, value in facts.items()})
    return SnapshotReport(store.location, str(path), done, crc)


def check_free(path: Path) -> None:
    """Raise FileExistsError for an existing file, which a snapshot never replaces."""
    if path.exists():
        raise FileExistsError(f"{path} exists; name another file for the snapshot, or remove it")


def restore_index(
    path: str | Path, location: str | Path, *, schema: CollectionSchema | None = None, report: Report = silent
) -> SnapshotReport:
    """Make an index of a snapshot, in a folder or on a server; a restore that was cut short is continued.

    `schema` gives it another layout, graph, compression or shards, as in `copy_store`. The whole file is verified
    before anything is written. Raises ValueError for a damaged file, for a schema that would lose data, and for an
    index that holds captions of anything but an unfinished restore of this snapshot.
    """
    path = Path(path)
    card, crc, total = _verify(path, report)
    layout = (schema or card.schema).upgraded()
    check_layout(card.schema, layout)
    with create_store(location, schema=layout, encoder=card.encoder, dim=card.dim) as store:
        begun = store.card.notes.get(NOTE)
        mine = begun is not None and begun["checksum"] == crc and not begun["complete"]
        if store.count() and not mine:
            raise ValueError(f"the index at {location} holds captions; restore into an empty place")
        store.note(NOTE, {"checksum": crc, "complete": False})
        done = 0
        for page in _pages(path):
            store.upsert(page)
            done += page.num_rows
            report(ProgressEvent("restore", done, total))
        store.optimise(report)
        if store.count() != total:
            raise StoreError(
                f"the index at {location} has {store.count()} captions, the snapshot {total}; restore again"
            )
        for name in card.notes.keys() - {"check", NOTE}:
            store.note(name, card.notes[name])
        store.note(NOTE, {"checksum": crc, "complete": True})
        return SnapshotReport(store.location, str(path), total, crc)


def _verify(path: Path, report: Report) -> tuple[Card, int, int]:
    try:
        with pq.ParquetFile(path) as file:
            facts = file.metadata.metadata or {}
        if not {CARD, SEAL, COUNT} <= facts.keys():
            raise ValueError("it has no card")
        crc, done, total = 0, 0, int(facts[COUNT])
        for page in _pages(path):
            crc, done = _add(crc, page), done + page.num_rows
            report(ProgressEvent("verify", done, total))
        crc = zlib.crc32(facts[CARD], crc)
        values: dict[str, Any] = json.loads(facts[CARD])
        if (str(crc).encode(), done) != (facts[SEAL], total):
            raise ValueError("its checksum differs")
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged or no snapshot of an index ({error}); use another copy") from None
    return read_card(values, str(path)), crc, total


def _pages(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        yield from file.iter_batches(ROWS)


def _add(crc: int, page: pa.RecordBatch) -> int:
    table = pa.Table.from_batches([page]).replace_schema_metadata(None)
    return zlib.crc32(str(checksum(table)).encode(), crc)


def _chain(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest

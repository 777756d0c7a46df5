"""Moving an index: from a folder to a server or back, or into another layout; nothing is embedded again."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from rag_clip.display import counted
from rag_clip.files.outputs import check_outputs
from rag_clip.progress import ProgressEvent, Report, silent
from rag_clip.store.interface import StoreError
from rag_clip.store.opening import create_store
from rag_clip.store.schema import CollectionSchema
from rag_clip.store.store import Store

BATCH_ROWS = 1024
VERIFIED_ROWS = 200
TOLERANCE = {"float32": 1e-5, "float16": 2e-3}


@dataclass(frozen=True, slots=True)
class CopyReport:
    """The result of a copy: `count` rows in both indexes, `verified` of them compared value by value."""

    source: str
    target: str
    count: int
    verified: int


def copy_store(
    source: Store, target: str | Path, *, schema: CollectionSchema | None = None, report: Report = silent
) -> CopyReport:
    """Copy an index to a folder or server address, optimise it there, and verify counts and a sample of rows.

    `schema` gives the copy another layout, graph, compression or shards, with the same vectors and payload; by default
    it does not change, except that an index of an older schema version becomes one of the newest. Existing rows in the
    target are written again, so an interrupted copy can be restarted. Raises ValueError where a schema would lose data
    or the target is another index, StoreError where the copy differs from the source.
    """
    check_outputs([(target, "index")], inputs=[source.location])
    layout = (schema or source.card.schema).upgraded()
    check_layout(source.card.schema, layout)
    with create_store(target, schema=layout, encoder=source.card.encoder, dim=source.card.dim) as store:
        return copy_rows(source, store, report=report)


def copy_rows(source: Store, target: Store, *, report: Report = silent) -> CopyReport:
    """Copy every row into an open index with the same encoder, width and columns, optimise and verify it."""
    total, done = source.count(), 0
    for page in source.scroll(batch_size=BATCH_ROWS, vectors=True, payload=True):
        target.upsert(page)
        done += page.num_rows
        report(ProgressEvent("copy", done, total))
    target.optimise(report)
    verified = _verify(source, target)
    for name in source.card.notes.keys() - {"check"}:
        target.note(name, source.card.notes[name])
    return CopyReport(source.location, target.location, total, verified)


def check_layout(stored: CollectionSchema, wanted: CollectionSchema) -> None:
    """Raise ValueError for a layout without a vector or payload field of the index, or with an additional vector."""
    if stored.columns != wanted.columns:
        raise ValueError(
            f"the index has the vectors {', '.join(stored.columns)}, the schema {', '.join(wanted.columns)}; "
            "a copy needs the same"
        )
    kinds = {name: index.kind for name, index in stored.payload.items()}
    lost = [name for name, kind in kinds.items() if name not in wanted.payload or wanted.payload[name].kind != kind]
    if lost:
        raise ValueError(f"the schema does not declare payload {', '.join(lost)} as the index does; add it")


def _verify(source: Store, target: Store) -> int:
    expected, found = source.count(), target.count()
    if expected != found:
        raise StoreError(
            f"{target.location} has {counted(found, 'row')}, {source.location} {expected}; was one of them written "
            "to meanwhile, or did the target hold others? Copy again into an empty place"
        )
    seed = f"{expected}"
    start = str(uuid.UUID(int=random.Random(seed).getrandbits(128)))
    compared = 0
    for begin in (start, None):
        pages = [
            list(islice(store.scroll(batch_size=VERIFIED_ROWS, start=begin, vectors=True, payload=True), 1))
            for store in (source, target)
        ]
        for original, copy in zip(*pages, strict=True):
            _compare(original, copy, source, target)
            compared += original.num_rows
    return min(compared, expected)


def _compare(original: pa.RecordBatch, copy: pa.RecordBatch, source: Store, target: Store) -> None:
    columns = target.card.schema.columns.values()
    for name in original.schema.names:
        if name not in columns and not original.column(name).equals(copy.column(name)):
            raise StoreError(f"column {name} of {target.location} differs from {source.location}; copy again")
    datatypes = {vector.datatype for card in (source.card, target.card) for vector in card.schema.vectors}
    tolerance = max(TOLERANCE[datatype] for datatype in datatypes)
    for name in columns:
        left, right = (_unit(page.column(name)) for page in (original, copy))
        if np.abs(left - right).max(initial=0) > tolerance:
            raise StoreError(f"vectors in {name} of {target.location} differ from {source.location}; copy again")


def _unit(column: pa.Array) -> np.ndarray:
    rows = column.flatten().to_numpy().reshape(len(column), -1)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)  # type: ignore[no-any-return]

"""Rows for the store: their ids, and checks of their vectors and payload."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rag_clip.store.schema import CollectionSchema

NAMESPACE = uuid.UUID("7d0b8a0e-3c0f-5f0e-9a53-2f1c1a3f5c11")
NAMED_AT_MOST = 5
SMALLEST_NORM = 1e-12
ARROW_TYPES = {"text": pa.string(), "keyword": pa.string(), "integer": pa.int64(), "float": pa.float64()}


@dataclass(frozen=True, slots=True)
class Rows:
    """Aligned rows of the store: ids, payload by field, and float32 vectors [t, d] by name, if requested.

    The payload always has `text` and `source`; other fields are None where a row has no value.
    """

    ids: list[str]
    payload: dict[str, list[Any]]
    vectors: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> Rows:
        payload = {name: values[part] for name, values in self.payload.items()}
        return Rows(self.ids[part], payload, {name: matrix[part] for name, matrix in self.vectors.items()})

    def to_batch(self, schema: CollectionSchema, *, payload: bool = True) -> pa.RecordBatch:
        """Return a batch of the columns id, text and source, the other payload fields if requested, and the vectors."""
        columns = {"id": pa.array(self.ids, pa.string())}
        for name in ("text", "source", *(schema.extra if payload else ())):
            kind = schema.payload[name].kind if name in schema.payload else "keyword"
            columns[name] = pa.array(self.payload[name], ARROW_TYPES[kind])
        for name, vectors in self.vectors.items():
            flat = pa.array(vectors.reshape(-1), pa.float32())
            columns[schema.columns[name]] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        return pa.record_batch(columns)


def caption_id(source: str, text: str) -> str:
    """Return the id of a caption, a UUID (version 5) derived from its source and text, so that it is stored once."""
    return str(uuid.uuid5(NAMESPACE, f"{len(source)}:{source}{text}"))


def check_rows(batch: pa.RecordBatch, dim: int, schema: CollectionSchema) -> Rows:
    """Return Rows from a batch with columns id, text, source, one per named vector, and any declared payload.

    Raises ValueError, naming the ids, for missing columns, nulls outside the declared payload, payload of another type,
    ids that are not UUIDs, and vectors that are not finite, not of width `dim`, or zero. Other columns are ignored.
    """
    needed = ["id", "text", "source", *schema.columns.values()]
    missing = [name for name in needed if name not in batch.schema.names]
    if missing:
        raise ValueError(f"the batch lacks {', '.join(missing)}; found columns {', '.join(batch.schema.names)}")
    nulls = [name for name in needed if batch.column(name).null_count]
    if nulls:
        raise ValueError(f"the batch has nulls in {', '.join(nulls)}; drop those rows first")
    ids = batch.column("id").to_pylist()
    wrong = [row for row in ids if not _is_uuid(row)]
    if wrong:
        raise ValueError(f"{_some(wrong)}: not lower-case UUIDs; make ids with caption_id")
    vectors = {
        name: check_vectors(_to_matrix(column, batch.column(column), ids, dim), dim, ids)
        for name, column in schema.columns.items()
    }
    payload = {name: batch.column(name).to_pylist() for name in ("text", "source")}
    return Rows(ids, payload | {name: _to_payload(batch, name, schema) for name in schema.extra}, vectors)


def check_vectors(vectors: np.ndarray, dim: int, names: Sequence[str]) -> np.ndarray:
    """Return float32 [t, d], contiguous; raises ValueError naming the rows that are not finite or are zero."""
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ValueError(f"vectors of shape {list(vectors.shape)} do not fit an index of width {dim}")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise ValueError(f"{_some(_pick(names, ~finite))}: NaN or infinite vectors")
    zero = np.linalg.norm(vectors, axis=1) < SMALLEST_NORM
    if zero.any():
        raise ValueError(f"{_some(_pick(names, zero))}: zero vectors, which have no direction")
    return vectors


def _to_payload(batch: pa.RecordBatch, name: str, schema: CollectionSchema) -> list[Any]:
    if name not in batch.schema.names:
        return [None] * len(batch)
    column, kind = batch.column(name), schema.payload[name].kind
    try:
        column = column.cast(ARROW_TYPES[kind])
    except pa.ArrowException as error:
        raise ValueError(f"column {name} holds {column.type}, not {kind} values as the schema says: {error}") from None
    if kind == "float" and not pc.all(pc.is_finite(column), min_count=0).as_py():
        raise ValueError(f"column {name} holds NaN or infinite numbers; make them null")
    return column.to_pylist()  # type: ignore[no-any-return]


def _to_matrix(name: str, column: pa.Array, ids: list[str], dim: int) -> np.ndarray:
    if not any(test(column.type) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)):
        raise ValueError(f"column {name} holds {column.type}, not lists of numbers")
    widths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    wrong = widths != dim
    if wrong.any():
        found = sorted({int(width) for width in widths[wrong]})
        raise ValueError(f"{_some(_pick(ids, wrong))}: vectors of width {found}, not {dim}")
    values = column.flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float32).reshape(len(column), dim)


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _pick(names: Sequence[str], mask: np.ndarray) -> list[str]:
    return [name for name, chosen in zip(names, mask.tolist(), strict=True) if chosen]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return ", ".join(names[:NAMED_AT_MOST]) + more

"""Caption rows on their way into the store: their ids, and the checks that no bad vector passes."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NAMESPACE = uuid.UUID("7d0b8a0e-3c0f-5f0e-9a53-2f1c1a3f5c11")
NAMED_AT_MOST = 5
SMALLEST_NORM = 1e-12


@dataclass(frozen=True, slots=True)
class Rows:
    """Captions of the store, aligned: ids, texts, sources and, where asked for, float32 vectors [t, d]."""

    ids: list[str]
    texts: list[str]
    sources: list[str]
    vectors: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def to_batch(self) -> pa.RecordBatch:
        """Return columns id, text, source and, where present, vector (list<float32>[d])."""
        columns = {"id": pa.array(self.ids, pa.string()), "text": pa.array(self.texts, pa.string())}
        columns["source"] = pa.array(self.sources, pa.string())
        if self.vectors is not None:
            flat = pa.array(self.vectors.reshape(-1), pa.float32())
            columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, self.vectors.shape[1])
        return pa.record_batch(columns)


def caption_id(source: str, text: str) -> str:
    """Derive the id of a caption (a UUID, version 5) from its source and text, so that it is stored once."""
    return str(uuid.uuid5(NAMESPACE, f"{len(source)}:{source}{text}"))


def check_rows(batch: pa.RecordBatch, dim: int) -> Rows:
    """Turn a batch with columns id, text, source and vector into Rows.

    Raises ValueError for missing columns, nulls, ids that are no UUIDs, and vectors that are not finite, not of
    width `dim`, or zero; it names the ids.
    """
    missing = [name for name in ("id", "text", "source", "vector") if name not in batch.schema.names]
    if missing:
        raise ValueError(f"the batch lacks {', '.join(missing)}; found columns {', '.join(batch.schema.names)}")
    columns = {name: batch.column(name) for name in ("id", "text", "source", "vector")}
    nulls = [name for name, column in columns.items() if column.null_count]
    if nulls:
        raise ValueError(f"the batch has nulls in {', '.join(nulls)}; drop those rows first")
    ids = columns["id"].to_pylist()
    wrong = [row for row in ids if not _is_uuid(row)]
    if wrong:
        raise ValueError(f"{_some(wrong)}: not lower-case UUIDs; make ids with caption_id")
    vectors = check_vectors(_to_matrix(columns["vector"], ids, dim), dim, ids)
    return Rows(ids, columns["text"].to_pylist(), columns["source"].to_pylist(), vectors)


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


def _to_matrix(column: pa.Array, ids: list[str], dim: int) -> np.ndarray:
    if not any(test(column.type) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)):
        raise ValueError(f"column vector holds {column.type}, not lists of numbers")
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

"""Write the predictions: every input column, then what was matched, in one pass over the files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rag_clip.classifiers.match import Scoring, match
from rag_clip.data import Features
from rag_clip.files.features import FeatureRows
from rag_clip.images.joined import JoinedFeatures
from rag_clip.images.kept import to_kept, with_features
from rag_clip.images.rows import ImageFile, read_rows, spans
from rag_clip.progress import StageClock
from rag_clip.protocols import Classifier

ROW_GROUP_BYTES = 32 << 20
COLUMNS = {
    "label": pa.string(),
    "score": pa.float32(),
    "top_k_labels": pa.list_(pa.string()),
    "top_k_scores": pa.list_(pa.float32()),
    "error": pa.string(),
}


def prediction_columns(taken: Sequence[str]) -> tuple[str, ...]:
    """Name the columns of predictions; all take the prefix `predicted_` where the input has a column of such a name.

    Input columns keep their names. Raises ValueError where the prefixed names are taken as well.
    """
    for names in (tuple(COLUMNS), tuple(f"predicted_{name}" for name in COLUMNS)):
        if not set(names) & set(taken):
            return names
    clash = ", ".join(name for name in taken if name in (*COLUMNS, *(f"predicted_{column}" for column in COLUMNS)))
    raise ValueError(f"the input already has the columns {clash}; rename or drop those that begin with predicted_")


def output_schema(schema: pa.Schema, columns: Sequence[str], facts: Mapping[str, Any]) -> pa.Schema:
    """Append `columns` to the input's schema, and the run's facts to its metadata, as JSON under the key rag_clip."""
    added = [pa.field(name, kind) for name, kind in zip(columns, COLUMNS.values(), strict=True)]
    metadata = with_features(schema.metadata or {}, schema, added)
    metadata[b"rag_clip"] = json.dumps({**facts, "columns": columns}, sort_keys=True, default=str).encode()
    return pa.schema([*schema, *added], metadata=metadata)


def write_predictions(
    path: Path,
    sources: Iterable[tuple[ImageFile, JoinedFeatures]],
    *,
    schema: pa.Schema,
    predict: Callable[[FeatureRows], list[pa.Array]],
    clock: StageClock,
    advance: Callable[[int], None],
) -> None:
    """Write the rows of every file beside their predictions to `path`.

    `schema` is the input's with the columns of predictions after it. Memory holds one row group, of about
    `ROW_GROUP_BYTES`.
    """
    kept = pa.schema(list(schema)[: -len(COLUMNS)])
    with pq.ParquetWriter(path, schema) as writer:
        for file, cache in sources:
            sizes = [stop - start for start, stop in cache.spans()]
            tables = read_rows(file, sizes, columns=kept.names, most_bytes=ROW_GROUP_BYTES)
            for start, stop in cache.spans():
                features = cache.read(start)
                with clock.stage("match"):
                    columns = predict(features)
                with clock.stage("write"):
                    first = 0
                    while first < stop - start:
                        table = next(tables)
                        added = [column.slice(first, len(table)) for column in columns]
                        writer.write_table(pa.Table.from_arrays([*to_kept(table, kept), *added], schema=schema))
                        first += len(table)
                advance(stop - start)
    with path.open("rb") as written:
        os.fsync(written.fileno())


def predict_rows(
    features: FeatureRows,
    classifier: Classifier,
    *,
    scoring: Scoring,
    batch_size: int,
    device: torch.device,
) -> list[pa.Array]:
    """Return the columns of `COLUMNS` for the rows of a shard; rows with an error have nulls and their error."""
    good = features.good
    names = pa.array(classifier.labels.names, pa.string())

    def of(rows: np.ndarray) -> Features:
        pooled, *rest = (torch.from_numpy(v[rows]).to(device) for v in (features.pooled, *features.others.values()))
        return Features(pooled, others=dict(zip(features.others, rest, strict=True)))

    batches = spans(0, len(good), batch_size)
    matches = [match(classifier, of(good[first:end]), **asdict(scoring)) for first, end in batches]
    k = min(scoring.top_k, len(names))
    labels = np.concatenate([np.empty((0, k), np.int64), *(part.labels.cpu().numpy() for part in matches)])  # [n, k]
    values = np.concatenate([np.empty((0, k), np.float32), *(part.scores.cpu().numpy() for part in matches)])
    offsets = pa.array(np.arange(len(good) + 1, dtype=np.int32) * k)
    place = np.zeros(len(features.errors), np.int64)
    place[good] = np.arange(len(good))
    rows = pa.array(place, mask=~np.isin(np.arange(len(place)), good))
    columns = [
        names.take(pa.array(labels[:, 0])),
        pa.array(values[:, 0]),
        pa.ListArray.from_arrays(offsets, names.take(pa.array(labels.reshape(-1)))),
        pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1))),
    ]
    return [*(column.take(rows) for column in columns), pa.array(features.errors, pa.string())]

"""Write the predictions: every input column, then the prediction columns, in one pass over the files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rag_clip.classifiers.match import Matches, Scoring, match, rank
from rag_clip.classifiers.novelty import Novelty
from rag_clip.data import Features
from rag_clip.files.features import FeatureRows
from rag_clip.files.reading import metadata_document, read_schema, read_table
from rag_clip.files.regular import is_regular
from rag_clip.images.joined import JoinedFeatures
from rag_clip.images.kept import to_kept, with_features
from rag_clip.images.rows import ImageFile, read_rows, spans
from rag_clip.progress import Progress
from rag_clip.protocols import Classifier
from rag_clip.refinement.batch import Refined

ROW_GROUP_BYTES = 32 << 20
COLUMNS = {
    "label": pa.string(),
    "score": pa.float32(),
    "top_k_labels": pa.list_(pa.string()),
    "top_k_scores": pa.list_(pa.float32()),
    "error": pa.string(),
}
PREFIX = "predicted_"  # of the columns, where the input has one of their names
LABEL_ALONE, NOVELTY = {"label_alone": pa.string()}, {"novelty": pa.float32()}


@dataclass(frozen=True, slots=True, eq=False)
class Rejection:
    """What tells images of none of the classes: a novelty above `threshold`, with which they may get no label."""

    novelty: Novelty
    threshold: float
    rejects: bool


def columns_of(scoring: Scoring) -> dict[str, pa.DataType]:
    """Return the prediction columns and their types; refined predictions have one more, and so has an open world."""
    return {**COLUMNS, **(LABEL_ALONE if scoring.refine else {}), **(NOVELTY if scoring.open_world else {})}


def prediction_columns(taken: Sequence[str], scoring: Scoring) -> tuple[str, ...]:
    """Return the names of the prediction columns, all with the prefix `predicted_` if the input has one of the names.

    Input columns keep their names. Raises ValueError if the input has one of the prefixed names as well.
    """
    columns = tuple(columns_of(scoring))
    for names in (columns, tuple(f"{PREFIX}{name}" for name in columns)):
        if not set(names) & set(taken):
            return names
    clash = ", ".join(name for name in taken if name in (*columns, *(f"{PREFIX}{column}" for column in columns)))
    raise ValueError(f"the input already has the columns {clash}; rename or drop those that begin with predicted_")


def output_schema(schema: pa.Schema, columns: Mapping[str, pa.DataType], facts: Mapping[str, Any]) -> pa.Schema:
    """Append `columns` to the input's schema, and the run's facts to its metadata, as JSON with the key rag_clip."""
    added = [pa.field(name, kind) for name, kind in columns.items()]
    metadata = with_features(schema.metadata or {}, schema, added)
    metadata[b"rag_clip"] = json.dumps({**facts, "columns": list(columns)}, sort_keys=True, default=str).encode()
    return pa.schema([*schema, *added], metadata=metadata)


def write_predictions(
    path: Path,
    sources: Iterable[tuple[ImageFile, JoinedFeatures]],
    *,
    schema: pa.Schema,
    kept: pa.Schema,
    predict: Callable[[FeatureRows], list[pa.Array]],
    progress: Progress,
    advance: Callable[[int], None],
) -> None:
    """Write the rows of every file beside their predictions to `path`.

    path: the Parquet file.
    sources: the files, with the features of their rows.
    schema: that of the output: `kept`, then the prediction columns.
    kept: the schema of the input.
    predict: returns the prediction columns for features.
    progress: collects seconds per stage.
    advance: called with the number of rows written.

    Memory holds one row group of about `ROW_GROUP_BYTES`.
    """
    with pq.ParquetWriter(path, schema) as writer:
        for file, cache in sources:
            sizes = [stop - start for start, stop in cache.spans()]
            tables = read_rows(file, sizes, columns=kept.names, most_bytes=ROW_GROUP_BYTES)
            for start, stop in cache.spans():
                features = cache.read(start)
                with progress.stage("match"):
                    columns = predict(features)
                with progress.stage("write"):
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
    rejection: Rejection | None = None,
    batch_size: int,
    device: torch.device,
) -> list[pa.Array]:
    """Return the columns of `columns_of` for the rows of a shard; rows with an error have nulls and the error.

    With a `rejection` that rejects, images of none of the classes have no label.
    """
    good = features.good
    names = pa.array(classifier.labels.names, pa.string())
    batches = [images_of(features, good[first:end], device) for first, end in spans(0, len(good), batch_size)]
    pairs = [_match(classifier, batch, scoring) for batch in batches]
    matches = [refined for refined, _ in pairs]
    k = min(scoring.top_k, len(names))
    labels = np.concatenate([np.empty((0, k), np.int64), *(part.labels.cpu().numpy() for part in matches)])  # [n, k]
    values = np.concatenate([np.empty((0, k), np.float32), *(part.scores.cpu().numpy() for part in matches)])
    offsets = pa.array(np.arange(len(good) + 1, dtype=np.int32) * k)
    place = np.zeros(len(features.errors), np.int64)
    place[good] = np.arange(len(good))
    rows = pa.array(place, mask=~np.isin(np.arange(len(place)), good))
    novelty = np.concatenate(
        [np.empty(0, np.float32), *(rejection.novelty(each.pooled).cpu().numpy() for each in batches if rejection)]
    )
    rejected = novelty > rejection.threshold if rejection and rejection.rejects else None
    columns = [
        names.take(pa.array(labels[:, 0], mask=rejected)),
        pa.array(values[:, 0]),
        pa.ListArray.from_arrays(offsets, names.take(pa.array(labels.reshape(-1)))),
        pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1))),
    ]
    columns = [*(column.take(rows) for column in columns), pa.array(features.errors, pa.string())]
    if isinstance(classifier, Refined):
        alone = np.concatenate([np.empty(0, np.int64), *(labels.cpu().numpy() for _, labels in pairs)])  # [n]
        columns.append(names.take(pa.array(alone)).take(rows))
    if rejection is not None:
        columns.append(pa.array(novelty).take(rows))
    return columns


def images_of(features: FeatureRows, rows: np.ndarray, device: torch.device) -> Features:
    """Return the features of some rows [n], on a device."""
    pooled, *rest = (torch.from_numpy(v[rows]).to(device) for v in (features.pooled, *features.others.values()))
    return Features(pooled, others=dict(zip(features.others, rest, strict=True)))


def _match(classifier: Classifier, images: Features, scoring: Scoring) -> tuple[Matches, torch.Tensor]:
    """Return the ranked classes, and the best class [n] of each image by itself."""
    top_k, scores, labels = scoring.top_k, scoring.scores, classifier.labels
    if not isinstance(classifier, Refined):
        matches = match(classifier, images, top_k=top_k, scores=scores)
        return matches, matches.labels[:, 0]
    alone = classifier.alone(images)
    without = alone if classifier.without is classifier.alone else classifier.without(images)
    matches = rank(without + classifier.added(images), images, labels, top_k=top_k, scores=scores)
    return matches, alone.argmax(1)  # the first of equal ones, as `rank` has it, in a sixth of its time


def recorded_columns(schema: pa.Schema) -> tuple[Mapping[str, Any], dict[str, str]]:
    """Return the facts that `output_schema` recorded, and the names of the prediction columns by what they hold.

    Raises ValueError, without the file's name, for a schema of no predictions.
    """
    facts = metadata_document(schema, b"rag_clip") or {}
    names = facts.get("columns")
    columns = {str(name).removeprefix(PREFIX): str(name) for name in names} if isinstance(names, list) else {}
    if not {"label", "error"} <= columns.keys():
        raise ValueError("has no predictions; write them with `rag-clip classify`")
    return facts, columns


def read_rejected(path: str | Path) -> np.ndarray:
    """Return which rows of a predictions file show none of the classes, bool [n].

    They have no label, or more novelty than the threshold of the file; rows with an error are not among them. Raises
    ValueError for a file that is no predictions, FileNotFoundError for a missing one.
    """
    path = Path(path)
    if not is_regular(path):
        raise FileNotFoundError(f"there is no file {path}; write predictions with `rag-clip classify --open`")
    try:
        facts, columns = recorded_columns(read_schema(path))
        wanted = [columns[name] for name in ("label", "error", "novelty") if name in columns]
        table = read_table(path, wanted)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
    rejected = table[columns["label"]].combine_chunks().is_null().to_numpy(zero_copy_only=False)
    if "novelty" in columns:
        novelty = table[columns["novelty"]].to_numpy()
        rejected = rejected | (np.nan_to_num(novelty, nan=0.0) > float(facts["novelty"]["threshold"]))
    good = table[columns["error"]].combine_chunks().is_null().to_numpy(zero_copy_only=False)
    return np.asarray(rejected & good)

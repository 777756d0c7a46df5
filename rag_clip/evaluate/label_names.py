"""Labels as files hold them: names of classes, one or several for each image."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rag_clip.data import LabelSet
from rag_clip.knowledge.names import match_names

NAMES_SHOWN = 3


def class_numbers(names: Sequence[str], labels: LabelSet) -> list[int]:
    """Return the class of each name, matched without case and accents; raises ValueError naming those that are none."""
    rows = {name: row for row, name in enumerate(labels.names)}
    for each in set(names) - rows.keys():
        rows |= match_names(labels, [each]).rows  # apart, since a name would keep its synonyms from matching
    unknown = [name for name in dict.fromkeys(names) if name not in rows]
    if unknown:
        shown = ", ".join(map(repr, unknown[:NAMES_SHOWN]))
        raise ValueError(
            f"{len(unknown)} labels are none of the {len(labels)} classes, such as {shown}; "
            "add them to the label set, or leave those rows out"
        )
    return [rows[name] for name in names]


def read_names(path: Path, column: str) -> list[tuple[str, ...]]:
    """Return the labels of every row of a Parquet file, whose column holds names or lists of names.

    Raises ValueError where the column is not there or holds something else.
    """
    schema = pq.read_schema(path)
    if column not in schema.names:
        raise ValueError(f"has no column {column!r} of labels; it has {', '.join(schema.names)}")
    values = pq.read_table(path, columns=[column])[column].to_pylist()
    rows = [tuple(value) if isinstance(value, list) else () if value is None else (value,) for value in values]
    for row, held in enumerate(rows):
        if not all(isinstance(name, str) for name in held):
            raise ValueError(f"column {column!r} holds {held} in row {row}; give names of classes")
    return rows


def holds_several(path: str | Path, label_column: str = "label") -> bool:
    """Tell whether images of a file, or of the first Parquet file of a folder, may have several labels, by their type.

    A file that is not there or not readable holds none; what reads it says so.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as held:
                return "label" in held and len(held["label"].shape) == 2
        first = path if path.is_file() else next(iter(sorted(path.glob("*.parquet"))), None)
        schema = None if first is None else pq.read_schema(first)
    except (OSError, ValueError, pa.ArrowException, zipfile.BadZipFile):
        return False
    kind = schema.field(label_column).type if schema and label_column in schema.names else pa.null()
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))

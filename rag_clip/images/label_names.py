"""Labels as files hold them: names of classes, one or several for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pyarrow as pa

from rag_clip.data import LabelSet
from rag_clip.files.readable_names import readable_name
from rag_clip.files.reading import metadata_document, read_arrays, read_schema, read_table
from rag_clip.prompts.knowledge.names import match_names

NAMES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class FileLabels:
    """The names of the classes of each row, and the number that the file has for a name, where it has numbers."""

    rows: list[tuple[str, ...]]
    numbers: Mapping[str, str] = field(default_factory=dict)

    def classes(self, labels: LabelSet) -> list[list[int]]:
        """Return the classes of each row; raises ValueError as `class_numbers`."""
        names = dict.fromkeys(name for held in self.rows for name in held)
        place = dict(zip(names, class_numbers(list(names), labels, self.numbers), strict=True))
        return [[place[name] for name in held] for held in self.rows]


def join_labels(parts: Sequence[FileLabels]) -> FileLabels:
    """Return the labels of several files in their order, with their numbers where all have the same."""
    numbers = parts[0].numbers if all(part.numbers == parts[0].numbers for part in parts) else {}
    return FileLabels([row for part in parts for row in part.rows], numbers)


def class_numbers(names: Sequence[str], labels: LabelSet, numbers: Mapping[str, str] | None = None) -> list[int]:
    """Return the class of each name: by name, by the `id` that the label set gives it, or else by its words.

    Where names are none of the classes, the `numbers` that a file has for all of them may be ids as well. Raises
    ValueError naming those that are none.
    """
    ids = {normalize("NFC", identity): row for row, identity in enumerate(labels.ids)}
    rows = {name: row for row, name in enumerate(labels.names)}
    for each in set(names) - rows.keys():
        own = normalize("NFC", each)
        if own in rows or own in ids:
            rows[each] = rows.get(own, ids.get(own, -1))
            continue
        # apart, since a name would keep its synonyms from matching
        found = match_names(labels, [each]).rows or match_names(labels, [readable_name(each)]).rows
        rows |= dict.fromkeys([each], next(iter(found.values()))) if found else {}
    unknown = [name for name in dict.fromkeys(names) if name not in rows]
    if unknown and numbers and all(numbers.get(name) in ids for name in names):
        return [ids[numbers[name]] for name in names]
    if unknown:
        shown = ", ".join(map(repr, unknown[:NAMES_SHOWN]))
        bare = all(name.isdecimal() for name in unknown)
        advice = "give each class its number as `id`" if bare else "add them to the label set, or leave those rows out"
        raise ValueError(f"{len(unknown)} labels are none of the {len(labels)} classes, such as {shown}; {advice}")
    return [rows[name] for name in names]


def class_names(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """Return the names of a column of numbers (ClassLabel, or a list of them) as Hugging Face notes them in a file.

    () where the file notes none.
    """
    try:
        feature: Any = (metadata_document(schema, b"huggingface") or {})["info"]["features"][column]
        while isinstance(feature, list) or "feature" in feature:
            feature = feature[0] if isinstance(feature, list) else feature["feature"]
        return tuple(map(str, feature["names"])) if feature["_type"] == "ClassLabel" else ()
    except (AttributeError, ValueError, KeyError, TypeError, IndexError):
        return ()


def to_labels(values: Sequence[Any], names: Sequence[str], column: str) -> FileLabels:
    """Turn the values of a column into names of classes: a name or number each, or a list; null, -1 and "" are none.

    Numbers count from 0 in `names`, and stand for themselves where there are none. Raises ValueError for other values.
    """
    rows = []
    for row, value in enumerate(values):
        held = value if isinstance(value, list) else [value]
        try:
            found = [_to_name(one, names) for one in held]
        except (OverflowError, TypeError, IndexError):
            known = f"of the {len(names)} that the file names" if names else "of classes"
            raise ValueError(f"column {column!r} holds {value!r} in row {row}; give names {known}") from None
        rows.append(tuple(name for name in found if name))
    return FileLabels(rows, {name: str(number) for number, name in enumerate(names)})


def _to_name(value: Any, names: Sequence[str]) -> str:
    if value is None or value != value or value == -1:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise TypeError
    if names and value < 0:
        raise IndexError
    return names[int(value)] if names else str(int(value))


def read_names(path: Path, column: str) -> FileLabels:
    """Return the labels of every row of a Parquet file, whose column holds names or numbers, or lists of them.

    Raises ValueError where the column is not there or holds something else.
    """
    table = read_table(path, [column])
    return to_labels(table[column].to_pylist(), class_names(table.schema, column), column)


def holds_several(path: str | Path, label_column: str = "label") -> bool:
    """Tell whether images of a file, or of the first Parquet file of a folder, may have several labels, by their type.

    A file that is not there or not readable holds none; what reads it says so.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".npz":
            return read_arrays(path).get("label", np.empty(0)).ndim == 2
        first = path if path.is_file() else next(iter(sorted(path.glob("*.parquet"))), None)
        schema = None if first is None else read_schema(first)
    except (OSError, ValueError):
        return False
    return schema is not None and lists_labels(schema, label_column)


def lists_labels(schema: pa.Schema, column: str) -> bool:
    """Tell whether a column is there and holds lists."""
    kind = schema.field(column).type if column in schema.names else pa.null()
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))

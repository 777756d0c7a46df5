"""Labelled images, to evaluate on or to choose settings on: their class names from files, and their features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pyarrow as pa
import torch

from rag_clip.data import Features, LabelSet, SeveralLabels, Targets
from rag_clip.display import counted
from rag_clip.files.atomic import scratch_folder
from rag_clip.files.readable_names import readable_name
from rag_clip.files.reading import metadata_document, read_arrays, read_schema, read_table
from rag_clip.images.columns import LABELS, choose
from rag_clip.images.decoding import Decoding
from rag_clip.images.joined import encode_by_all
from rag_clip.images.opening import Images, open_image_files
from rag_clip.images.rows import ImageFile, read_rows, spans
from rag_clip.progress import Progress, Report, silent
from rag_clip.prompts.knowledge.names import match_names
from rag_clip.protocols import Encoder

NAMES_SHOWN = 3
LABELS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class FileLabels:
    """The class names of each row, and the number of each name if the file numbers its classes."""

    rows: list[tuple[str, ...]]
    numbers: Mapping[str, str] = field(default_factory=dict)

    def classes(self, labels: LabelSet) -> list[list[int]]:
        """Return the class numbers of each row; raises ValueError as `class_numbers` does."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        number = dict(zip(names, class_numbers(list(names), labels, self.numbers), strict=True))
        return [[number[name] for name in row] for row in self.rows]


def join_labels(parts: Sequence[FileLabels]) -> FileLabels:
    """Return the labels of several files in their order, with the numbers of names if these are the same in all."""
    numbers = parts[0].numbers if all(part.numbers == parts[0].numbers for part in parts) else {}
    return FileLabels([row for part in parts for row in part.rows], numbers)


def class_numbers(names: Sequence[str], labels: LabelSet, numbers: Mapping[str, str] | None = None) -> list[int]:
    """Return the class number of each name, matched with the label set by name, by `id`, or else by words.

    If a name matches no class, and the file's `numbers` of all names are ids of classes, these decide. Raises
    ValueError that shows the names without a class.
    """
    ids = {normalize("NFC", identity): row for row, identity in enumerate(labels.ids)}
    rows = {name: row for row, name in enumerate(labels.names)}
    for each in set(names) - rows.keys():
        own = normalize("NFC", each)
        if own in rows or own in ids:
            rows[each] = rows.get(own, ids.get(own, -1))
            continue
        # one by one: a name that matches a class would keep its synonyms from matching it
        found = match_names(labels, [each]).rows or match_names(labels, [readable_name(each)]).rows
        rows |= dict.fromkeys([each], next(iter(found.values()))) if found else {}
    unknown = [name for name in dict.fromkeys(names) if name not in rows]
    if unknown and numbers and all(numbers.get(name) in ids for name in names):
        return [ids[numbers[name]] for name in names]
    if unknown:
        shown = ", ".join(map(repr, unknown[:NAMES_SHOWN]))
        bare = all(name.isdecimal() for name in unknown)
        advice = "give each class its number as `id`" if bare else "add them to the label set, or leave those rows out"
        raise ValueError(
            f"{counted(len(unknown), 'label')} not among the {counted(len(labels), 'class')}, such as {shown}; {advice}"
        )
    return [rows[name] for name in names]


def class_names(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """Return the class names of a column of numbers, from Hugging Face's metadata (ClassLabel, or a list of it).

    Returns () if the file has no such metadata.
    """
    try:
        feature: Any = (metadata_document(schema, b"huggingface") or {})["info"]["features"][column]
        while isinstance(feature, list) or "feature" in feature:
            feature = feature[0] if isinstance(feature, list) else feature["feature"]
        return tuple(map(str, feature["names"])) if feature["_type"] == "ClassLabel" else ()
    except (AttributeError, ValueError, KeyError, TypeError, IndexError):
        return ()


def to_labels(values: Sequence[Any], names: Sequence[str], column: str) -> FileLabels:
    """Turn the values of a column into class names: a name, a number or a list of these; null, -1 and "" are no label.

    Numbers are positions in `names`, from 0, or are class names themselves if `names` is empty. `column` is for
    messages. Raises ValueError for other values.
    """
    rows = []
    for row, value in enumerate(values):
        labels = value if isinstance(value, list) else [value]
        try:
            texts = [_to_name(label, names) for label in labels]
        except (OverflowError, TypeError, IndexError):
            known = f"of the {counted(len(names), 'class')} in the file's metadata" if names else "of classes"
            raise ValueError(f"column {column!r} has {value!r} in row {row}; give names {known}") from None
        rows.append(tuple(text for text in texts if text))
    return FileLabels(rows, {name: str(number) for number, name in enumerate(names)})


def _to_name(value: Any, names: Sequence[str]) -> str:
    if value is None or value != value or value == -1:  # NaN differs from itself
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise TypeError
    if names and value < 0:
        raise IndexError
    return names[int(value)] if names else str(int(value))


def read_names(path: Path, column: str) -> FileLabels:
    """Return the labels of every row of a Parquet file, whose column contains names or numbers, or lists of these.

    Raises ValueError if the column is missing or has other values.
    """
    table = read_table(path, [column])
    return to_labels(table[column].to_pylist(), class_names(table.schema, column), column)


def holds_several(path: str | Path, label_column: str = "label") -> bool:
    """Return whether the label column of a file, or of the first Parquet file of a folder, is multi-label by its type.

    False for a missing or unreadable file, for which reading it raises the error.
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
    """Return whether a column exists and its type is a list."""
    kind = schema.field(column).type if column in schema.names else pa.null()
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Features and classes of the n usable images, before they become a validation set or a task.

    features: of the n images.
    targets: their classes, int64 [n], or SeveralLabels if they are multi-label.
    rows: their row numbers among all rows of the files, int64 [n].
    errors: why other images cannot be used, by row number.
    """

    features: Features
    targets: Targets
    rows: torch.Tensor
    errors: Mapping[int, str]

    @property
    def failed(self) -> int:
        """The number of images that cannot be used."""
        return len(self.errors)


def read_labelled(
    images: Images | str | Path | Sequence[str | Path],
    labels: LabelSet,
    *,
    encoder: Encoder,
    others: Mapping[str, Encoder] | None = None,
    features_dir: str | Path | None = None,
    decoding: Decoding = Decoding(),  # noqa: B008
    report: Report = silent,
) -> Labelled:
    """Encode labelled images, and match their labels to class names, ignoring case and punctuation.

    images: paths, or `Images` if columns are not called `image` and `label`; lists of labels are multi-label.
    labels: the classes.
    encoder: encodes the images.
    others: additional encoders by name.
    features_dir: a folder that keeps features between runs.
    decoding: the number of workers and the batch size.
    report: called with the progress.

    Raises ValueError for labels that are not in the label set, and as `encode_labelled` does.
    """
    images = images if isinstance(images, Images) else Images(images)
    files = images.open()
    return encode_labelled(
        files,
        read_targets(files, labels, images.label_column),
        encoder=encoder,
        others=others,
        features_dir=features_dir,
        decoding=decoding,
        report=report,
    )


def encode_labelled(
    files: Sequence[ImageFile],
    targets: Targets,
    *,
    encoder: Encoder,
    others: Mapping[str, Encoder] | None = None,
    features_dir: str | Path | None = None,
    decoding: Decoding = Decoding(),  # noqa: B008
    report: Report = silent,
) -> Labelled:
    """Encode the images of files and join them with their targets.

    files: the images.
    targets: the class of each row, in the order of the files.
    encoder: encodes the images.
    others: additional encoders by name; their features are added under these names.
    features_dir: a folder that keeps features between runs, shared with `classify`; by default a temporary one.
    decoding: the number of workers and the batch size.
    report: called with the progress.

    Raises ValueError if no image can be used.
    """
    others = others or {}
    if features_dir is None and decoding.elsewhere is not None and decoding.elsewhere.remote:
        raise ValueError(
            "other machines cannot write to a temporary folder of this one; give a shared folder of features"
        )
    with ExitStack() as stack:
        root = features_dir or stack.enter_context(scratch_folder())
        sources, _ = encode_by_all(
            files, root, encoder=encoder, others=others, decoding=decoding, progress=Progress(report=report)
        )
        shards = [cache.read(start) for _, cache in sources for start, _ in cache.spans()]
    of_rows = [error for shard in shards for error in shard.errors]
    if not of_rows:
        raise ValueError(f"{', '.join(str(file.path) for file in files)} has no rows; give labelled images")
    errors = {row: error for row, error in enumerate(of_rows) if error is not None}
    if len(errors) == len(of_rows):
        raise ValueError(f"none of {counted(len(of_rows), 'image')} can be used; the first error is: {errors[0]}")
    good = np.array([error is None for error in of_rows])
    columns = {"": [shard.pooled for shard in shards]}
    columns |= {name: [shard.others[name] for shard in shards] for name in others}
    vectors = {
        name: torch.from_numpy(np.concatenate(parts)[good]).to(encoder.device)  # [n, d]
        for name, parts in columns.items()
    }
    rows = torch.from_numpy(np.flatnonzero(good))  # [n]
    features = Features(vectors.pop(""), ids=tuple(map(str, rows.tolist())), others=vectors)
    return Labelled(features, targets[rows].to(encoder.device), rows, errors)


def read_targets(files: Sequence[ImageFile], labels: LabelSet, label_column: str = "label") -> Targets:
    """Return the class of every row of the files, int64 [n], or SeveralLabels if the column contains lists.

    Raises ValueError for labels that are not in the label set, and for files without the column.
    """
    if any(lists_labels(file.schema, choose_label(file, label_column)) for file in files):
        return read_several_classes(files, labels, label_column)
    return torch.tensor(read_classes(files, labels, label_column), dtype=torch.int64)


def read_classes(files: Sequence[ImageFile], labels: LabelSet, label_column: str = "label") -> list[int]:
    """Return the class number of every row of the files, in their order.

    Raises ValueError for labels that are not in the label set, for rows without a label or with several, and for files
    without the column.
    """
    file_labels = read_file_labels(files, label_column)
    if unlabelled := sum(not names for names in file_labels.rows):
        raise ValueError(
            f"{counted(unlabelled, 'image')} without a label in column {label_column!r}; label all images, "
            "or leave such images out"
        )
    if several := [row for row, names in enumerate(file_labels.rows) if len(names) > 1]:
        raise ValueError(
            f"{counted(len(several), 'image')} with several labels in column {label_column!r}, "
            f"the first in row {several[0]}; "
            "give one label to each, or leave them out"
        )
    return [number for numbers in _classes(file_labels, labels, label_column) for number in numbers]


def read_several_classes(files: Sequence[ImageFile], labels: LabelSet, label_column: str) -> SeveralLabels:
    """Return the classes of every row, which may have several labels or none; raises ValueError as `read_targets`."""
    file_labels = read_file_labels(files, label_column)
    targets = torch.zeros(len(file_labels.rows), len(labels), dtype=torch.bool)  # [n, c]
    for row, classes in enumerate(_classes(file_labels, labels, label_column)):
        targets[row, classes] = True
    return SeveralLabels(targets)


def read_file_labels(files: Sequence[ImageFile], label_column: str = "label") -> FileLabels:
    """Return the labels of every row of the files, in their order; raises ValueError for files without the column."""
    return join_labels([_read_labels(file, label_column) for file in files])


def choose_label(file: ImageFile, label_column: str) -> str:
    """Return the column of labels under any of its usual names; '' if there is none."""
    texts = ("txt",) if str(file.path).lower().endswith(".tar") else ()
    return choose(file.schema.names, label_column, (*LABELS, *texts)) or ""


def _read_labels(file: ImageFile, column: str) -> FileLabels:
    wanted, column = column, choose_label(file, column)
    if not column:
        raise ValueError(f"{file.path} has no column {wanted!r} of labels; it has {', '.join(file.schema.names)}")
    sizes = [stop - start for start, stop in spans(0, file.rows, LABELS_AT_ONCE)]
    values = [value for table in read_rows(file, sizes, columns=[column]) for value in table[column].to_pylist()]
    try:
        return to_labels(values, class_names(file.schema, column), column)
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from None


def _classes(file_labels: FileLabels, labels: LabelSet, column: str) -> list[list[int]]:
    try:
        return file_labels.classes(labels)
    except ValueError as error:
        raise ValueError(f"column {column!r}: {error}") from None


def labels_from(paths: Sequence[str | Path], *, label_column: str = "label", image_column: str = "image") -> LabelSet:
    """Return the classes of labelled images: from Hugging Face's metadata, or else the names in the rows.

    Names from metadata are in the order of their numbers, which become ids; names from rows are sorted. Raises
    ValueError for numbers without names, and if there is no label.
    """
    files = open_image_files(paths, image_column=image_column)
    recorded = {class_names(file.schema, choose_label(file, label_column)) for file in files}
    if len(recorded) == 1 and (names := recorded.pop()):
        return LabelSet(names, ids=tuple(map(str, range(len(names)))))
    distinct = sorted({name for row in read_file_labels(files, label_column).rows for name in row})
    if not distinct or all(name.isdecimal() for name in distinct):
        content = f"numbers without names, such as {distinct[0]}" if distinct else "no label"
        raise ValueError(f"column {label_column!r} of {files[0].path} has {content}; give a label file")
    return LabelSet(tuple(distinct))

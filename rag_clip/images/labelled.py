"""Labelled images for measuring and choosing: the names of classes that files hold, and the features of the images."""

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
from rag_clip.progress import Report, StageClock, silent
from rag_clip.prompts.knowledge.names import match_names
from rag_clip.protocols import Encoder

NAMES_SHOWN = 3
LABELS_AT_ONCE = 4096


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
        raise ValueError(
            f"{counted(len(unknown), 'label')} not among the {counted(len(labels), 'class')}, such as {shown}; {advice}"
        )
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


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Features of the n images that could be used, before it is said what for.

    `targets` are their classes int64 [n], or SeveralLabels where images may have several; `rows` int64 [n] is their
    place among all rows of the files. `errors` say by row why other images could not be used.
    """

    features: Features
    targets: Targets
    rows: torch.Tensor
    errors: Mapping[int, str]

    @property
    def failed(self) -> int:
        """How many images could not be used."""
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
    """Encode labelled images, and match their labels to class names without case or punctuation.

    images: paths, or `Images` where columns are not called `image` and `label`.
    labels: the classes.
    encoder, others: the main encoder, and further ones by name.
    features_dir: a folder in which the features are kept.
    decoding: the number of processes and the batch size.
    report: called with the progress.

    Where the labels are lists of names, an image may have several.
    Raises ValueError for labels that are not in the label set, naming some, and as `encode_labelled`.
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
    """Encode the images of files, whose rows have `targets` in their order.

    `others` are further encoders, whose features come along under their names. Features stay in `features_dir`, if
    given, where `classify` finds them too. Raises ValueError where no image can be used.
    """
    others = others or {}
    with ExitStack() as stack:
        root = features_dir or stack.enter_context(scratch_folder())
        sources, _ = encode_by_all(
            files, root, encoder=encoder, others=others, decoding=decoding, clock=StageClock(report=report)
        )
        shards = [cache.read(start) for _, cache in sources for start, _ in cache.spans()]
    said = [error for shard in shards for error in shard.errors]
    if not said:
        raise ValueError(f"{', '.join(str(file.path) for file in files)} holds no row; give labelled images")
    errors = {row: error for row, error in enumerate(said) if error is not None}
    if len(errors) == len(said):
        raise ValueError(f"none of {counted(len(said), 'image')} can be used; the first says: {errors[0]}")
    good = np.array([error is None for error in said])
    columns = {"": [shard.pooled for shard in shards]}
    columns |= {name: [shard.others[name] for shard in shards] for name in others}
    held = {name: torch.from_numpy(np.concatenate(parts)[good]).to(encoder.device) for name, parts in columns.items()}
    rows = torch.from_numpy(np.flatnonzero(good))
    features = Features(held.pop(""), ids=tuple(map(str, rows.tolist())), others=held)
    return Labelled(features, targets[rows].to(encoder.device), rows, errors)


def read_targets(files: Sequence[ImageFile], labels: LabelSet, label_column: str = "label") -> Targets:
    """Return the class of every row of the files int64 [n], or SeveralLabels where the column holds lists of names.

    Raises ValueError for labels that are not in the label set, naming some, and for files without the column.
    """
    if any(lists_labels(file.schema, choose_label(file, label_column)) for file in files):
        return read_several_classes(files, labels, label_column)
    return torch.tensor(read_classes(files, labels, label_column), dtype=torch.int64)


def read_classes(files: Sequence[ImageFile], labels: LabelSet, label_column: str = "label") -> list[int]:
    """Return the class of every row of the files, in their order.

    Raises ValueError for labels that are not in the label set, naming some, for rows of none or of several, and for
    files without the column.
    """
    held = read_file_labels(files, label_column)
    if bare := sum(not names for names in held.rows):
        raise ValueError(
            f"{counted(bare, 'image')} without a label in column {label_column!r}; label all images, "
            "or leave such images out"
        )
    if several := [row for row, names in enumerate(held.rows) if len(names) > 1]:
        raise ValueError(
            f"{counted(len(several), 'image')} with several labels in column {label_column!r}, "
            f"row {several[0]} the first; "
            "give one each, or leave them out"
        )
    return [row for rows in _classes(held, labels, label_column) for row in rows]


def read_several_classes(files: Sequence[ImageFile], labels: LabelSet, label_column: str) -> SeveralLabels:
    """Return the classes of every row of files whose column may hold lists; else as `read_classes`.

    A row may have no label.
    """
    held = read_file_labels(files, label_column)
    targets = torch.zeros(len(held.rows), len(labels), dtype=torch.bool)
    for row, classes in enumerate(_classes(held, labels, label_column)):
        targets[row, classes] = True
    return SeveralLabels(targets)


def read_file_labels(files: Sequence[ImageFile], label_column: str = "label") -> FileLabels:
    """Return the labels of every row of the files, in their order; raises ValueError as `read_classes`."""
    return join_labels([_read_labels(file, label_column) for file in files])


def choose_label(file: ImageFile, label_column: str) -> str:
    """Return the column of labels, another name that people have for it included; "" where there is none."""
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


def _classes(held: FileLabels, labels: LabelSet, column: str) -> list[list[int]]:
    try:
        return held.classes(labels)
    except ValueError as error:
        raise ValueError(f"column {column!r}: {error}") from None


def labels_from(paths: Sequence[str | Path], *, label_column: str = "label", image_column: str = "image") -> LabelSet:
    """Return the classes of labelled images: the names that Hugging Face notes in the files, or else those of the rows.

    Noted names come in the order of their numbers, which are their ids; the others come sorted. Raises ValueError for
    numbers without names, and where there is no label.
    """
    files = open_image_files(paths, image_column=image_column)
    noted = {class_names(file.schema, choose_label(file, label_column)) for file in files}
    if len(noted) == 1 and (names := noted.pop()):
        return LabelSet(names, ids=tuple(map(str, range(len(names)))))
    found = sorted({name for row in read_file_labels(files, label_column).rows for name in row})
    if not found or all(name.isdecimal() for name in found):
        held = f"numbers without names, such as {found[0]}" if found else "no label"
        raise ValueError(f"column {label_column!r} of {files[0].path} holds {held}; give a label file")
    return LabelSet(tuple(found))

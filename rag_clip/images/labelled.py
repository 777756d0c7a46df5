"""Labelled images for measuring and choosing: their features, and the class of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rag_clip.data import Features, LabelSet
from rag_clip.files.atomic import scratch_folder
from rag_clip.images.columns import LABELS, choose
from rag_clip.images.features import spans
from rag_clip.images.joined import encode_by_all
from rag_clip.images.label_names import FileLabels, class_names, join_labels, lists_labels, to_labels
from rag_clip.images.opening import open_image_files
from rag_clip.images.rows import ImageFile, read_rows
from rag_clip.progress import Report, silent
from rag_clip.protocols import Encoder

LABELS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Features of the n images that could be used, before it is said what for.

    `targets` are their classes int64 [n], or bool [n, c] where images may have several; `rows` int64 [n] is their place
    among all rows of the files. `errors` say by row why other images could not be used.
    """

    features: Features
    targets: torch.Tensor
    rows: torch.Tensor
    errors: Mapping[int, str]

    @property
    def failed(self) -> int:
        """How many images could not be used."""
        return len(self.errors)


def read_labelled(
    paths: Sequence[str | Path],
    labels: LabelSet,
    *,
    encoder: Encoder,
    others: Mapping[str, Encoder] | None = None,
    image_column: str = "image",
    label_column: str = "label",
    features_dir: str | Path | None = None,
    workers: int | None = None,
    report: Report = silent,
) -> Labelled:
    """Encode the images of Parquet files, and match their labels to class names without case or punctuation.

    Where the labels are lists of names, an image may have several.
    Raises ValueError for labels that are not in the label set, naming some, and as `encode_labelled`.
    """
    files = open_image_files(paths, image_column=image_column)
    return encode_labelled(
        files,
        read_targets(files, labels, label_column),
        encoder=encoder,
        others=others,
        features_dir=features_dir,
        workers=workers,
        report=report,
    )


def encode_labelled(
    files: Sequence[ImageFile],
    targets: torch.Tensor,
    *,
    encoder: Encoder,
    others: Mapping[str, Encoder] | None = None,
    features_dir: str | Path | None = None,
    workers: int | None = None,
    report: Report = silent,
) -> Labelled:
    """Encode the images of files, whose rows have `targets` in their order.

    `others` are further encoders, whose features come along under their names. Features stay in `features_dir`, if
    given, where `classify` finds them too. Raises ValueError where no image can be used.
    """
    others = others or {}
    with ExitStack() as stack:
        root = features_dir or stack.enter_context(scratch_folder())
        sources, _ = encode_by_all(files, root, encoder=encoder, others=others, workers=workers, report=report)
        shards = [cache.read(start) for _, cache in sources for start, _ in cache.spans()]
    said = [error for shard in shards for error in shard.errors]
    if not said:
        raise ValueError(f"{', '.join(str(file.path) for file in files)} holds no row; give labelled images")
    errors = {row: error for row, error in enumerate(said) if error is not None}
    if len(errors) == len(said):
        raise ValueError(f"none of the {len(said)} images can be used; the first says: {errors[0]}")
    good = np.array([error is None for error in said])
    columns = {"": [shard.pooled for shard in shards]}
    columns |= {name: [shard.others[name] for shard in shards] for name in others}
    held = {name: torch.from_numpy(np.concatenate(parts)[good]).to(encoder.device) for name, parts in columns.items()}
    rows = torch.from_numpy(np.flatnonzero(good))
    features = Features(held.pop(""), ids=tuple(map(str, rows.tolist())), others=held)
    return Labelled(features, targets[rows].to(encoder.device), rows, errors)


def read_targets(files: Sequence[ImageFile], labels: LabelSet, label_column: str = "label") -> torch.Tensor:
    """Return the class of every row of the files int64 [n], or bool [n, c] where the column holds lists of names.

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
        raise ValueError(f"{bare} images have no label in column {label_column!r}; give them one, or leave them out")
    if several := [row for row, names in enumerate(held.rows) if len(names) > 1]:
        raise ValueError(
            f"{len(several)} images have several labels in column {label_column!r}, row {several[0]} the first; "
            "give one each, or leave them out"
        )
    return [row for rows in _classes(held, labels, label_column) for row in rows]


def read_several_classes(files: Sequence[ImageFile], labels: LabelSet, label_column: str) -> torch.Tensor:
    """Return the classes of every row of files whose column may hold lists, bool [n, c]; else as `read_classes`.

    A row may have no label.
    """
    held = read_file_labels(files, label_column)
    targets = torch.zeros(len(held.rows), len(labels), dtype=torch.bool)
    for row, classes in enumerate(_classes(held, labels, label_column)):
        targets[row, classes] = True
    return targets


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

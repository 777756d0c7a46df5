"""Labelled image features on disk, as published or as written here: tasks that need no encoder.

An .npz file holds `image` [n, d] and `label` [n], as indices into `classes` [c] or as names. It may hold `text` [t, c,
d] or [c, d], by template, with the `templates` [t], and the encoder's `scale`. A Parquet file holds a column of lists
of numbers, `features` or `vector`, and a column of names. If images have several labels, `label` is bool [n, c], or the
column holds lists of names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch.nn import functional

from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, SeveralLabels, Targets
from rag_clip.display import counted
from rag_clip.files.reading import read_arrays, read_schema, read_table
from rag_clip.files.regular import is_regular
from rag_clip.images.labelled import class_numbers, read_names

VECTOR_COLUMNS = ("features", "vector")


@dataclass(frozen=True, slots=True, eq=False)
class FeatureFile:
    """Features of n images and their `truth`, int64 [n], or SeveralLabels if an image may have several.

    `text` [t, c, d] are unit rows by template, None if the file has no text features of exactly these classes. `scale`
    is the encoder's, if known.
    """

    features: Features
    labels: LabelSet
    truth: Targets
    text: torch.Tensor | None = None
    templates: tuple[str, ...] = ()
    scale: float | None = None

    def zero_shot(self, template: int = -1, *, scale: float | None = None) -> ZeroShot:
        """Return the classifier of one row of `text`, the last by default, with `scale` or that of the file.

        Raises ValueError if the file has no text, no such row, or there is no finite scale above 0.
        """
        if self.text is None:
            raise ValueError("the file has no text features of these classes; take class weights from an encoder")
        if not -len(self.text) <= template < len(self.text):
            raise ValueError(f"there is no template {template}; the file has {len(self.text)}, counted from 0")
        if scale is None and self.scale is None:
            raise ValueError("the file does not say the encoder's scale; give it (exp of the logit scale)")
        used = float(scale if scale is not None else self.scale or 0)
        if not 0 < used < math.inf:
            raise ValueError(f"the encoder's scale is {used}; give exp of its logit scale, a finite number above 0")
        return ZeroShot(self.labels, self.text[template], used)


def read_features(
    path: str | Path, *, labels: LabelSet | None = None, label_column: str = "label", multilabel: bool = False
) -> FeatureFile:
    """Read an .npz or Parquet file as float32 unit rows; its classes are matched to `labels` by name, if given.

    Without `labels`, the classes are those of the file: `classes` in its order, or the distinct names, sorted. With
    `multilabel`, the truth is SeveralLabels, whether or not any image has several. Raises ValueError naming the file
    for missing arrays, rows that are zero or not finite, lengths that differ, and labels outside the classes;
    FileNotFoundError if there is no file.
    """
    path = Path(path)
    if not is_regular(path):
        raise FileNotFoundError(f"there is no features file {path}; give an .npz or .parquet file")
    try:
        if path.suffix.lower() == ".npz":
            return _read_npz(path, labels, multilabel)
        if path.suffix.lower() == ".parquet":
            return _read_parquet(path, labels, label_column, multilabel)
        raise ValueError(f"features files end in .npz or .parquet, found suffix {path.suffix!r}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def has_features(path: str | Path) -> bool:
    """Return whether a file holds features, by its suffix or columns; raises ValueError for unreadable Parquet."""
    return Path(path).suffix.lower() == ".npz" or vector_column(Path(path)) is not None


def vector_column(path: Path) -> str | None:
    """Return the column of a Parquet file that holds features, or None."""
    try:
        schema = read_schema(path)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
    return next((name for name in VECTOR_COLUMNS if name in schema.names), None)


def _read_npz(path: Path, labels: LabelSet | None, multilabel: bool) -> FeatureFile:
    arrays = read_arrays(path)
    missing = [name for name in ("image", "label") if name not in arrays]
    if missing:
        raise ValueError(f"has no array {missing[0]!r}; it has {', '.join(arrays)}")
    image, label, text = arrays["image"], arrays["label"], arrays.get("text")
    classes = _texts("classes", arrays["classes"]) if "classes" in arrays else None
    templates = _texts("templates", arrays["templates"]) if "templates" in arrays else ()
    scale = _scale(arrays["scale"]) if "scale" in arrays else None
    if not label.ndim or not image.ndim:
        raise ValueError(f"`image` is {image.shape} and `label` {label.shape}; give rows of both, one per image")
    if len(label) != len(image) or label.ndim != 1 + (multilabel and label.dtype == np.bool_):
        other = "bool [n, c] for several labels" if multilabel else "a metric for several labels"
        raise ValueError(
            f"`label` is {label.dtype} {label.shape} for {len(image)} images; give one per image, or {other}"
        )
    if label.dtype.kind not in "iubU":
        raise ValueError(f"`label` holds {label.dtype} values; give numbers of classes, or their names")
    if label.dtype.kind in "iub" and classes is None and labels is None:
        raise ValueError("labels are numbers, and there are no `classes`; add the names, or give a label set")
    own = LabelSet(classes) if classes else labels or LabelSet(tuple(sorted(set(label.tolist()))))
    rows_of = class_numbers(own.names, labels) if labels else list(range(len(own)))
    vectors = None if text is None else _text(text, rows_of, labels or own)
    rows, numbers = _npz_labels(label, own)
    labels, classes_of = labels or own, torch.tensor(rows_of)[numbers]
    truth: Targets = _marked(rows, classes_of, (len(label), len(labels))) if multilabel else classes_of
    return FeatureFile(Features(_unit(image)), labels, truth, vectors, templates, scale)


def _texts(name: str, values: np.ndarray) -> tuple[str, ...]:
    if values.ndim != 1 or values.dtype.kind != "U":
        raise ValueError(f"`{name}` is {values.dtype} {values.shape}; give a list of texts")
    return tuple(values.tolist())


def _scale(value: np.ndarray) -> float:
    if value.size != 1 or value.dtype.kind not in "iuf":
        raise ValueError(f"`scale` is {value.dtype} {value.shape}; give one number")
    return float(value.reshape(())[()])


def _npz_labels(label: np.ndarray, own: LabelSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the row and the class of every label."""
    if label.ndim == 2:
        if label.shape[1] != len(own):
            raise ValueError(f"`label` is {label.shape} for {len(own)} classes; give a column per class")
        rows, classes = torch.from_numpy(label).nonzero().T
        return rows, classes
    numbers = label.tolist() if label.dtype.kind in "iu" else class_numbers(label.tolist(), own)
    if numbers and not 0 <= min(numbers) <= max(numbers) < len(own):
        raise ValueError(f"labels lie in [{min(numbers)}, {max(numbers)}] for {len(own)} classes; count them from 0")
    return torch.arange(len(numbers)), torch.tensor(numbers, dtype=torch.int64)


def _text(text: np.ndarray, rows_of: list[int], labels: LabelSet) -> torch.Tensor | None:
    text = text[None] if text.ndim == 2 else text
    if text.ndim != 3 or text.shape[1] != len(rows_of):
        raise ValueError(f"`text` is {text.shape} for {len(rows_of)} classes; give [t, c, d] or [c, d]")
    if sorted(rows_of) != list(range(len(labels))):
        return None  # the file's classes are not exactly those of the label set
    rows = _unit(text.reshape(-1, text.shape[2])).reshape(text.shape)
    moved = torch.empty_like(rows)
    moved[:, rows_of] = rows
    return moved


def _read_parquet(path: Path, labels: LabelSet | None, label_column: str, multilabel: bool) -> FeatureFile:
    column = vector_column(path)
    if column is None:
        raise ValueError(f"has no column of features ({' or '.join(VECTOR_COLUMNS)}); encode its images first")
    labelled = read_names(path, label_column)
    names = labelled.rows
    vectors = read_table(path, [column])[column].combine_chunks()
    if not (
        pa.types.is_list(vectors.type)
        or pa.types.is_large_list(vectors.type)
        or pa.types.is_fixed_size_list(vectors.type)
    ):
        raise ValueError(f"column {column!r} holds {vectors.type} values; give lists of numbers")
    if vectors.null_count:
        raise ValueError(f"{counted(vectors.null_count, 'row')} without features; remove them")
    flat = vectors.flatten().to_numpy(zero_copy_only=False)
    if len(vectors) == 0 or len(flat) % len(vectors):
        raise ValueError(
            f"{len(flat)} numbers in {counted(len(vectors), 'row')} of features; all rows must have the same width"
        )
    pooled = _unit(flat.reshape(len(vectors), -1))
    labels = labels or LabelSet(tuple(sorted({name for row in names for name in row})))
    classes = torch.tensor([number for row in labelled.classes(labels) for number in row], dtype=torch.int64)
    truth: Targets = classes
    counts = torch.tensor([len(row) for row in names])
    if multilabel:
        truth = _marked(torch.arange(len(names)).repeat_interleave(counts), classes, (len(names), len(labels)))
    elif bool((counts != 1).any()):
        row = int((counts != 1).nonzero()[0])
        raise ValueError(f"row {row} has {int(counts[row])} labels; give one, or a metric for several")
    return FeatureFile(Features(pooled), labels, truth)


def _marked(rows: torch.Tensor, classes: torch.Tensor, shape: tuple[int, int]) -> SeveralLabels:
    marks = torch.zeros(shape, dtype=torch.bool)
    marks[rows, classes] = True
    return SeveralLabels(marks)


def _unit(rows: np.ndarray) -> torch.Tensor:
    if rows.dtype.kind not in "iuf":
        raise ValueError(f"features hold {rows.dtype} values; give numbers")
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, and are refused below
        vectors = torch.from_numpy(np.array(rows, dtype=np.float32))
    if vectors.ndim != 2 or not len(vectors):
        raise ValueError(f"features are {tuple(vectors.shape)}; give [n, d], at least one row")
    lengths = torch.linalg.vector_norm(vectors, dim=1)
    bad = (~(lengths.isfinite() & (lengths > 0))).nonzero()[:, 0]
    if len(bad):
        raise ValueError(
            f"{counted(len(bad), 'row')} of features that are zero or not finite, the first is row {int(bad[0])}"
        )
    return functional.normalize(vectors, dim=1)

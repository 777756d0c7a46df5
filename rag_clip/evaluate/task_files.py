"""The files of a task: read as splits by what they may be used for, or checked before anything is measured."""

from __future__ import annotations

from collections import Counter
from itertools import compress
from pathlib import Path

import pyarrow.parquet as pq

from rag_clip.data import LabelSet, Validation
from rag_clip.evaluate.feature_file import FeatureFile, has_features, read_features
from rag_clip.evaluate.label_names import class_numbers, holds_several, read_names
from rag_clip.evaluate.splits import Test, Train
from rag_clip.evaluate.task import Role, Task, task_labels

NAMES_SHOWN = 3


def read_train(task: Task, folder: str | Path) -> Train:
    """Read the train split of a task from its features file; raises as `read_features` and `Task.path` do."""
    held = _read(task, folder, "train")
    return Train(held.features, held.labels, held.truth)


def read_validation(task: Task, folder: str | Path) -> Validation:
    """Read the validation split of a task from its features file; raises as `read_train`."""
    held = _read(task, folder, "validation")
    return Validation(held.features, held.labels, held.truth)


def read_test(task: Task, folder: str | Path) -> Test:
    """Read the test split of a task from its features file; raises as `read_train`."""
    held = _read(task, folder, "test")
    return Test(held.features, held.labels, held.truth)


def check_task(task: Task, folder: str | Path) -> tuple[str, ...]:
    """Return what is wrong with the files of a task in `folder`, in words, none where it can be measured.

    Files and columns that are missing, labels that are none of the classes, classes without images to test on, and
    counts other than expected. Images and features are not read.
    """
    labels, problems = None, []
    try:
        labels = task_labels(task, folder)
        problems += _check_labels(task, labels)
    except (OSError, ValueError) as error:
        problems.append(f"labels: {error}")
    for role in task.splits:
        problems += [f"{role}: {problem}" for problem in _check_split(task, task.path(role, folder), role, labels)]
    return tuple(problems)


def count_images(task: Task, folder: str | Path, role: Role) -> dict[str, int]:
    """Return how many images of a split each class has; raises ValueError and OSError for what `check_task` finds."""
    path, labels = task.path(role, folder), task_labels(task, folder)
    _, names = _read_split_names(task, path, labels)
    held = Counter(class_numbers([name for row in names for name in row], labels))
    return {name: held[row] for row, name in enumerate(labels.names)}


def _read(task: Task, folder: str | Path, role: Role) -> FeatureFile:
    path, labels = task.path(role, folder), task_labels(task, folder)
    if path.is_file() and not has_features(path):
        raise ValueError(f"{path} holds images, not features; encode them, or name a features file")
    return read_features(path, labels=labels, label_column=task.label_column, multilabel=task.multilabel)


def _check_labels(task: Task, labels: LabelSet) -> list[str]:
    expected = task.expected or {}
    found = {"classes": len(labels), "groups": len(set(labels.groups))}
    problems = [
        f"labels: there are {found[what]} {what}, expected {expected[what]}"
        for what in found
        if what in expected and found[what] != expected[what]
    ]
    if len(set(labels.groups)) > 1 and "" in labels.groups:
        count, first = labels.groups.count(""), labels.names[labels.groups.index("")]
        problems.append(f"labels: {count} classes are in no group, such as {first!r}")
    return problems


def _check_split(task: Task, path: Path, role: Role, labels: LabelSet | None) -> list[str]:
    if not path.exists():
        return [f"there is no file {path}"]
    try:
        count, names = _read_split_names(task, path, labels)
    except (OSError, ValueError) as error:
        return [str(error) if str(path) in str(error) else f"{path}: {error}"]
    expected = (task.expected or {}).get(role)
    problems = []
    if expected is not None and count != expected:
        problems.append(f"{path} holds {count} images, expected {expected}")
    if labels is None:
        return problems
    unlabelled = sum(not row for row in names)
    if unlabelled and not task.multilabel:
        problems.append(f"{path}: {unlabelled} images have no label")
    several = sum(len(row) > 1 for row in names)
    if several and not task.multilabel:
        problems.append(f"{path}: {several} images have several labels, which {task.metric} does not measure")
    try:
        held = Counter(class_numbers([name for row in names for name in row], labels))
    except ValueError as error:
        return [*problems, f"{path}: {error}"]
    empty = [name for row, name in enumerate(labels.names) if not held[row]]
    if empty:
        shown = ", ".join(map(repr, empty[:NAMES_SHOWN]))
        problems.append(f"{path}: {len(empty)} classes have no image, such as {shown}")
    return problems


def _read_split_names(task: Task, path: Path, labels: LabelSet | None) -> tuple[int, list[tuple[str, ...]]]:
    """Return how many images a split has, and the names of the classes of each."""
    if path.is_dir():
        parts = [_read_split_names(task, part, labels) for part in sorted(path.glob("*.parquet"))]
        if not parts:
            raise ValueError("the folder holds no .parquet file")
        return sum(count for count, _ in parts), [row for _, names in parts for row in names]
    if path.suffix.lower() == ".npz":
        held = read_features(path, labels=labels, multilabel=holds_several(path))
        if held.truth.ndim == 1:
            return len(held.truth), [(held.labels.names[row],) for row in held.truth.tolist()]
        return len(held.truth), [tuple(compress(held.labels.names, row)) for row in held.truth.tolist()]
    names = read_names(path, task.label_column)
    if not has_features(path) and task.image_column not in pq.read_schema(path).names:
        raise ValueError(f"has no column {task.image_column!r} of images, nor one of features")
    return len(names), names

"""The files of a task: read as splits by what they may be used for, or checked before anything is measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import compress
from pathlib import Path

from rag_clip.data import LabelSet, SeveralLabels, Validation
from rag_clip.evaluation.feature_file import FeatureFile, has_features, read_features
from rag_clip.evaluation.splits import Test, Train
from rag_clip.evaluation.task import Role, Task, task_labels
from rag_clip.files.locations import Place
from rag_clip.files.reading import read_schema
from rag_clip.images.labelled import FileLabels, holds_several, join_labels, read_names

NAMES_SHOWN = 3
ReadLabels = Callable[[Task, Place, LabelSet | None], FileLabels]


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


def read_split_labels(task: Task, path: Place, labels: LabelSet | None) -> FileLabels:
    """Return the labels of a split of Parquet files of images or features, or of an .npz file of features."""
    path = Path(path)
    if path.is_dir():
        parts = [read_split_labels(task, part, labels) for part in sorted(path.glob("*.parquet"))]
        if not parts:
            raise ValueError("the folder holds no .parquet file")
        return join_labels(parts)
    if path.suffix.lower() == ".npz":
        held = read_features(path, labels=labels, multilabel=holds_several(path))
        names, truth = held.labels.names, held.truth
        if isinstance(truth, SeveralLabels):
            return FileLabels([tuple(compress(names, marks)) for marks in truth.marks.tolist()])
        return FileLabels([(names[row],) for row in truth.tolist()])
    found = read_names(path, task.label_column)
    if not has_features(path) and task.image_column not in read_schema(path).names:
        raise ValueError(f"has no column {task.image_column!r} of images, nor one of features")
    return found


def check_task(task: Task, folder: str | Path, *, read_labels: ReadLabels = read_split_labels) -> tuple[str, ...]:
    """Return what is wrong with the files of a task in `folder`, in words, none where it can be measured.

    Files and columns that are missing, labels that are none of the classes, classes without images to test on, and
    counts other than expected. Images and features are not read. `read_labels` reads the labels of a split that is
    neither Parquet nor .npz, nor a folder of Parquet files.
    """
    labels, problems = None, []
    try:
        labels = task_labels(task, folder)
        problems += _check_labels(task, labels)
    except (OSError, ValueError) as error:
        problems.append(f"labels: {error}")
    for role in task.splits:
        found = _check_split(task, task.path(role, folder), role, labels, read_labels)
        problems += [f"{role}: {problem}" for problem in found]
    return tuple(problems)


def count_images(
    task: Task, folder: str | Path, role: Role, *, read_labels: ReadLabels = read_split_labels
) -> dict[str, int]:
    """Return how many images of a split each class has; raises ValueError and OSError for what `check_task` finds."""
    path, labels = task.path(role, folder), task_labels(task, folder)
    held = Counter(row for rows in read_labels(task, path, labels).classes(labels) for row in rows)
    return {name: held[row] for row, name in enumerate(labels.names)}


def _read(task: Task, folder: str | Path, role: Role) -> FeatureFile:
    path, labels = task.path(role, folder), task_labels(task, folder)
    if isinstance(path, str):
        raise ValueError(f"{path} is a URL; features are read from files of this machine")
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


def _check_split(task: Task, path: Place, role: Role, labels: LabelSet | None, read_labels: ReadLabels) -> list[str]:
    if isinstance(path, Path) and not path.exists():
        return [f"there is no file {path}"]
    try:
        found = read_labels(task, path, labels)
    except (OSError, ValueError) as error:
        return [str(error) if str(path) in str(error) else f"{path}: {error}"]
    expected = (task.expected or {}).get(role)
    problems = []
    if expected is not None and len(found.rows) != expected:
        problems.append(f"{path} holds {len(found.rows)} images, expected {expected}")
    if labels is None:
        return problems
    unlabelled = sum(not row for row in found.rows)
    if unlabelled and not task.multilabel:
        problems.append(f"{path}: {unlabelled} images have no label")
    several = sum(len(row) > 1 for row in found.rows)
    if several and not task.multilabel:
        problems.append(f"{path}: {several} images have several labels, which {task.metric} does not measure")
    try:
        held = Counter(row for rows in found.classes(labels) for row in rows)
    except ValueError as error:
        return [*problems, f"{path}: {error}"]
    empty = [name for row, name in enumerate(labels.names) if not held[row]]
    if empty:
        shown = ", ".join(map(repr, empty[:NAMES_SHOWN]))
        problems.append(f"{path}: {len(empty)} classes have no image, such as {shown}")
    return problems

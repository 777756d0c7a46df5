"""The files of a task: read as splits of distinct types, or checked before anything is measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import compress
from pathlib import Path

from rag_clip.data import LabelSet, SeveralLabels, Validation
from rag_clip.display import counted
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
    split = _read(task, folder, "train")
    return Train(split.features, split.labels, split.truth)


def read_validation(task: Task, folder: str | Path) -> Validation:
    """Read the validation split of a task from its features file; raises as `read_train`."""
    split = _read(task, folder, "validation")
    return Validation(split.features, split.labels, split.truth)


def read_test(task: Task, folder: str | Path) -> Test:
    """Read the test split of a task from its features file; raises as `read_train`."""
    split = _read(task, folder, "test")
    return Test(split.features, split.labels, split.truth)


def read_split_labels(task: Task, path: Place, labels: LabelSet | None) -> FileLabels:
    """Return the labels of a split of Parquet files of images or features, or of an .npz file of features."""
    path = Path(path)
    if path.is_dir():
        parts = [read_split_labels(task, part, labels) for part in sorted(path.glob("*.parquet"))]
        if not parts:
            raise ValueError("the folder holds no .parquet file")
        return join_labels(parts)
    if path.suffix.lower() == ".npz":
        file = read_features(path, labels=labels, multilabel=holds_several(path))
        names, truth = file.labels.names, file.truth
        if isinstance(truth, SeveralLabels):
            return FileLabels([tuple(compress(names, marks)) for marks in truth.marks.tolist()])
        return FileLabels([(names[row],) for row in truth.tolist()])
    found = read_names(path, task.label_column)
    if not has_features(path) and task.image_column not in read_schema(path).names:
        raise ValueError(f"has no column {task.image_column!r} of images, nor one of features")
    return found


def check_task(task: Task, folder: str | Path, *, read_labels: ReadLabels = read_split_labels) -> tuple[str, ...]:
    """Return the problems with the files of a task in `folder`, in words; none if it can be measured.

    Problems are missing files and columns, labels outside the classes, classes without test images, and counts other
    than expected. Images and features are not read. `read_labels` reads the labels of a split that is neither Parquet
    nor .npz, nor a folder of Parquet files.
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
    """Return the number of images of each class in a split; raises ValueError and OSError for what `check_task`
    reports.
    """
    path, labels = task.path(role, folder), task_labels(task, folder)
    counts = Counter(row for rows in read_labels(task, path, labels).classes(labels) for row in rows)
    return {name: counts[row] for row, name in enumerate(labels.names)}


def _read(task: Task, folder: str | Path, role: Role) -> FeatureFile:
    path, labels = task.path(role, folder), task_labels(task, folder)
    if isinstance(path, str):
        raise ValueError(f"{path} is a URL; features are read from files of this machine")
    if path.is_file() and not has_features(path):
        raise ValueError(f"{path} holds images, not features; encode them, or name a features file")
    return read_features(path, labels=labels, label_column=task.label_column, multilabel=task.multilabel)


def _check_labels(task: Task, labels: LabelSet) -> list[str]:
    expected = task.expected or {}
    counts = {"classes": len(labels), "groups": len(set(labels.groups))}
    problems = [
        f"labels: there are {counts[what]} {what}, expected {expected[what]}"
        for what in counts
        if what in expected and counts[what] != expected[what]
    ]
    if len(set(labels.groups)) > 1 and "" in labels.groups:
        count, first = labels.groups.count(""), labels.names[labels.groups.index("")]
        problems.append(f"labels: {counted(count, 'class')} without a group, such as {first!r}")
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
        problems.append(f"{path} holds {counted(len(found.rows), 'image')}, expected {expected}")
    if labels is None:
        return problems
    unlabelled = sum(not row for row in found.rows)
    if unlabelled and not task.multilabel:
        problems.append(f"{path}: {counted(unlabelled, 'image')} without a label")
    several = sum(len(row) > 1 for row in found.rows)
    if several and not task.multilabel:
        problems.append(
            f"{path}: {counted(several, 'image')} with several labels, which {task.metric} does not measure"
        )
    try:
        counts = Counter(row for rows in found.classes(labels) for row in rows)
    except ValueError as error:
        return [*problems, f"{path}: {error}"]
    empty = [name for row, name in enumerate(labels.names) if not counts[row]]
    if empty:
        shown = ", ".join(map(repr, empty[:NAMES_SHOWN]))
        problems.append(f"{path}: {counted(len(empty), 'class')} without an image, such as {shown}")
    return problems

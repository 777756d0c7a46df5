"""Tasks to evaluate: labelled images in Parquet files with their classes, and their features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import torch

from rag_clip.data import Features, LabelSet, Targets
from rag_clip.evaluation.feature_file import FeatureFile, has_features, read_features
from rag_clip.evaluation.settings import Unusable
from rag_clip.evaluation.splits import Test
from rag_clip.evaluation.task import Metric, Role, Task, bundled_tasks, read_task, task_labels
from rag_clip.evaluation.task_files import read_split_labels
from rag_clip.files.identity import hash_facts, identify
from rag_clip.files.labels import labels_to_document
from rag_clip.files.locations import Place, below, parent, to_place
from rag_clip.images.decoding import Decoding
from rag_clip.images.frames import NAME as FRAME
from rag_clip.images.labelled import (
    FileLabels,
    Labelled,
    choose_label,
    encode_labelled,
    holds_several,
    lists_labels,
    read_classes,
    read_file_labels,
    read_several_classes,
)
from rag_clip.images.opening import FILES, open_image_files
from rag_clip.images.rows import ImageFile
from rag_clip.metrics.openness import label_groups
from rag_clip.progress import Report, silent
from rag_clip.protocols import Encoder

REASONS = 20


@dataclass(frozen=True, slots=True)
class ImageTask:
    """Labelled images to classify, in files, in a table in memory, or as one file of features; and the classes.

    `train` is the file that few shots are drawn from, None if the task has no train split. `scale` is that of the
    encoder of a file of features that does not say it.
    """

    name: str
    paths: tuple[Place | pa.Table, ...]
    labels: LabelSet
    image_column: str = "image"
    label_column: str = "label"
    metric: Metric = "accuracy"
    train: Place | None = None
    scale: float | None = None

    @property
    def holds_features(self) -> bool:
        """Whether the task is one file of features, so that its images need no encoder."""
        [path, *others] = self.paths
        known = isinstance(path, Path) and path.is_file() and path.suffix.lower() in (".npz", ".parquet")
        return known and not others and has_features(Path(path))

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits over the files' paths, sizes, modification times and columns, and the classes."""
        places: list[tuple[str | int, ...]] = (
            [identify(path).facts for path in self.paths]
            if self.holds_features
            else [file.identity.facts for file in self._files()]
        )
        return hash_facts([places, self.image_column, self.label_column, self.metric, labels_to_document(self.labels)])

    @property
    def several(self) -> bool:
        """Whether an image may have several labels."""
        return self.metric == "map_11_point"

    def read_features(self) -> FeatureFile:
        """Read the file of features; raises ValueError if something is missing in it."""
        return read_features(self.paths[0], labels=self.labels, label_column=self.label_column, multilabel=self.several)

    def _files(self) -> list[ImageFile]:
        return open_image_files(self.paths, image_column=self.image_column)


def open_tasks(
    places: Sequence[str | Path],
    *,
    folder: str | Path = ".",
    labels: LabelSet | None = None,
    image_column: str = "image",
    label_column: str = "label",
) -> list[tuple[Task, Place]]:
    """Return tasks with the folder of their files, for `image_task`.

    places: task files .toml, names of bundled tasks ("elevater/eurosat") or suites ("elevater"), labelled images of any
        kind that `open_image_files` takes, or features (.parquet, .npz).
    folder: the folder of the files of tasks (a folder with that name is ./elevater).
    labels: the classes of images and features; an .npz file may name its own.
    image_column: the column of the images.
    label_column: the column of the labels; if images have several, 11-point mAP is measured.

    Files with the same name are distinguished by their folders. Raises FileNotFoundError for a missing place, and
    ValueError for an invalid one.
    """
    tasks: list[tuple[Task, Place]] = []
    stems = [PurePosixPath(place).stem for place in places]
    for place in map(str, places):
        path = to_place(place)
        if suite := [name for name in bundled_tasks() if name == place or name.startswith(f"{place}/")]:
            tasks += [(read_task(name), to_place(folder)) for name in suite]
        elif isinstance(path, str) or path.suffix.lower() in (".npz", *FILES) or path.is_dir():
            classes = labels or _own_labels(path)
            several = holds_several(path, label_column) or _lists_labels(path, image_column, label_column)
            metric: Metric = "map_11_point" if several else "accuracy"
            splits: dict[Role, str] = {"test": path if isinstance(path, str) else path.name}
            stem = PurePosixPath(path).stem
            above = parent(path if isinstance(path, str) else path.resolve())
            name = stem if stems.count(stem) == 1 else f"{PurePosixPath(above).name}/{stem}"
            tasks.append((Task(name, metric, splits, classes, label_column, image_column), parent(path)))
        else:
            tasks.append((read_task(place), to_place(folder)))
    return tasks


def image_task(task: Task, folder: str | Path) -> ImageTask:
    """Return the images to measure of a task: its test split, with the file of its train split.

    Raises FileNotFoundError if there is no test split, ValueError if only some classes have a group, and as
    `task_labels`.
    """
    labels = task_labels(task, folder)
    test = task.path("test", folder)
    if isinstance(test, Path) and not test.exists():
        raise FileNotFoundError(f"{task.name}: there is no {test} to measure on; bring it there")
    try:
        label_groups(labels)
    except ValueError as error:
        raise ValueError(f"{task.name}: {error}") from error
    return ImageTask(
        task.name,
        (test,),
        labels,
        task.image_column,
        task.label_column,
        task.metric,
        task.path("train", folder) if "train" in task.splits else None,
    )


def table_task(table: pa.Table, labels: LabelSet, *, name: str) -> ImageTask:
    """Return the task of labelled images in a table; if images have several labels, 11-point mAP is measured."""
    [file] = open_image_files([table], image_column="image")
    several = lists_labels(file.schema, choose_label(file, "label"))
    return ImageTask(name, (table,), labels, metric="map_11_point" if several else "accuracy")


def place_of(path: Place | pa.Table) -> str:
    """Return the name of a task's file, or of a table in memory."""
    return FRAME if isinstance(path, pa.Table) else str(path)


def _lists_labels(path: Place, image_column: str, label_column: str) -> bool:
    """Return whether images may have several labels; False for an unreadable file, which its reader reports."""
    try:
        files = open_image_files([path], image_column=image_column)
    except (OSError, ValueError):
        return False
    return lists_labels(files[0].schema, choose_label(files[0], label_column))


def task_inputs(opened: Sequence[tuple[Task, Place]]) -> list[Place]:
    """Return the files that tasks are read from: their splits, and the files of their classes."""
    labels: list[Place] = [below(folder, task.labels) for task, folder in opened if isinstance(task.labels, str)]
    return [*labels, *(task.path(role, folder) for task, folder in opened for role in task.splits)]


def _own_labels(path: Place) -> LabelSet:
    if PurePosixPath(path).suffix.lower() != ".npz":
        raise ValueError(f"nothing says which classes {path} is of; give its label set")
    return read_features(Path(path), multilabel=holds_several(path)).labels


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """The n images to measure on, their rows in the task's files int64 [n], and by row why others cannot be used."""

    test: Test
    rows: torch.Tensor
    errors: Mapping[int, str]


def read_images(
    task: ImageTask,
    *,
    encoder: Encoder | None,
    others: Mapping[str, Encoder] | None = None,
    features_dir: str | Path | None = None,
    decoding: Decoding = Decoding(),  # noqa: B008
    report: Report = silent,
) -> Labelled:
    """Encode the images of a task.

    task: the task; features in a file are taken as they are.
    encoder: the main encoder; None for features.
    others: further encoders by name.
    features_dir: a folder in which the features are kept.
    decoding: the number of processes and the batch size.
    report: called with the progress.

    Images have several labels if the metric is for several. Raises ValueError for labels that are not in the label set,
    if no image can be used, and for images without an encoder.
    """
    if task.holds_features:
        stored = task.read_features()
        rows, device = torch.arange(len(stored.truth)), encoder.device if encoder else torch.device("cpu")
        features = Features(stored.features.pooled.to(device), ids=tuple(map(str, rows.tolist())))
        return Labelled(features, stored.truth.to(device), rows, errors={})
    if encoder is None:
        raise ValueError(f"{task.name} holds images; name the model that encodes them")
    files = open_image_files(task.paths, image_column=task.image_column)
    targets: Targets
    if task.several:
        targets = read_several_classes(files, task.labels, task.label_column)
    else:
        targets = torch.tensor(read_classes(files, task.labels, task.label_column), dtype=torch.int64)
    return encode_labelled(
        files, targets, encoder=encoder, others=others, features_dir=features_dir, decoding=decoding, report=report
    )


def read_image_labels(task: Task, path: Place, labels: LabelSet | None) -> FileLabels:
    """Return the labels of a split, of images of any kind or of features; raises ValueError as their readers do."""
    suffix = Path(path).suffix.lower()
    if suffix == ".npz" or (isinstance(path, Path) and suffix == ".parquet" and path.is_file() and has_features(path)):
        return read_split_labels(task, path, labels)
    return read_file_labels(open_image_files([path], image_column=task.image_column), task.label_column)


def to_measure(task: ImageTask, images: Labelled) -> Measured:
    """Return the images of a task as a test set; raises ValueError as `Test`."""
    return Measured(Test(images.features, task.labels, images.targets), images.rows, images.errors)


def describe_failures(errors: Mapping[int, str]) -> Unusable:
    """Return how many images could not be used, and why, for each of the first 20 rows."""
    return Unusable(len(errors), {str(row): errors[row] for row in sorted(errors)[:REASONS]})

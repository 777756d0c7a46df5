"""Tasks: the files, classes and metric of an evaluation, as a TOML file defines them.

    name = "EuroSAT"                      metric = "accuracy"
    label_column = "label"                labels = "labels.json", or a list of names, or of {name, group} tables
    templates = ["a satellite photo of {}."]
    [splits]      train = "train.parquet"    validation = "validation.parquet"    test = "test.parquet"
    [expected]    classes = 10    groups = 1    train = 5000    validation = 5000    test = 5000

Required are `name`, `metric`, `labels` and `splits.test`. Splits are Parquet files of images or features, or .npz files
of features. Their paths, and that of the labels, are relative to a folder that is given when they are read. Bundled
tasks describe public benchmarks; the user provides their data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import StrictInt

from rag_clip.data import LabelSet
from rag_clip.files.labels import labels_from_document, read_labels
from rag_clip.files.locations import Place, below
from rag_clip.files.reading import parse_toml
from rag_clip.files.regular import is_regular
from rag_clip.files.settings import check_settings

Metric = Literal["accuracy", "mean_per_class", "map_11_point", "roc_auc"]
Role = Literal["train", "validation", "test"]
ROLES: tuple[Role, ...] = get_args(Role)
COUNTS = ("classes", "groups", *ROLES)
BUNDLED = "tasks"


@dataclass(frozen=True, slots=True)
class Task:
    """A task.

    name: of the task in results.
    metric: that ranks runs.
    splits: the path of each split: test, and optionally train and validation.
    labels: the classes, or the path of a label file that the user provides.
    label_column, image_column: the columns of the splits.
    templates: used in place of those of the label file, if given.
    expected: the numbers of classes, groups and images of each split, to check the files.
    note: a sentence on the source of the counts and the metric.

    Raises ValueError for an unknown metric, split or count, and without a test split.
    """

    name: str
    metric: Metric
    splits: Mapping[Role, str]
    labels: LabelSet | str
    label_column: str = "label"
    image_column: str = "image"
    templates: tuple[str, ...] = ()
    expected: Mapping[str, StrictInt] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.metric not in get_args(Metric):
            raise ValueError(f"unknown metric {self.metric!r}; known are {', '.join(get_args(Metric))}")
        if "test" not in self.splits:
            raise ValueError("there is no test split; give splits.test, the file to evaluate on")
        for what, names, known in (("split", self.splits, ROLES), ("expected count", self.expected or {}, COUNTS)):
            unknown = [name for name in names if name not in known]
            if unknown:
                raise ValueError(f"unknown {what} {unknown[0]!r}; known are {', '.join(known)}")

    @property
    def multilabel(self) -> bool:
        """Whether the task is multi-label: its label column contains lists of names."""
        return self.metric == "map_11_point"

    def path(self, role: Role, folder: str | Path) -> Place:
        """Return the file of a split in `folder`, a path or a URL; raises ValueError if there is no such split."""
        if role not in self.splits:
            raise ValueError(f"task {self.name!r} has no {role} split; it has {', '.join(self.splits)}")
        return below(folder, self.splits[role])


def read_task(place: str | Path) -> Task:
    """Read a task from a TOML file, or a bundled task by its name, such as "elevater/eurosat".

    Raises ValueError, naming the file, for invalid content; FileNotFoundError if there is neither file nor task.
    """
    path, bundled = Path(place), files("rag_clip.evaluation") / BUNDLED / f"{place}.toml"
    if not is_regular(path) and not bundled.is_file():
        raise FileNotFoundError(
            f"there is no task file {place}, and no bundled task of that name; bundled are {', '.join(bundled_tasks())}"
        )
    try:
        return _task(parse_toml((path if path.is_file() else bundled).read_bytes()))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def bundled_tasks() -> tuple[str, ...]:
    """Return the names of the bundled tasks: "elevater/...", "coop/..." and "openness/...", in order."""
    suites = (files("rag_clip.evaluation") / BUNDLED).iterdir()
    return tuple(
        sorted(
            f"{suite.name}/{file.name.removesuffix('.toml')}"
            for suite in suites
            if suite.is_dir()
            for file in suite.iterdir()
            if file.name.endswith(".toml")
        )
    )


def task_labels(task: Task, folder: str | Path) -> LabelSet:
    """Return the classes of a task, read from `folder` if they are in a file; the task's own templates replace others.

    Raises FileNotFoundError if there is no such file, and ValueError as `read_labels` does.
    """
    labels = task.labels
    if isinstance(labels, str):
        place = below(folder, labels)
        if isinstance(place, str):
            raise ValueError(f"the labels of {task.name} are at {place}; download them, and give a local path")
        labels = read_labels(place)
    return replace(labels, templates=task.templates or labels.templates)


def _task(document: Mapping[str, Any]) -> Task:
    labels = document.get("labels")
    if labels is None or isinstance(labels, str):
        return check_settings(Task, document)
    named = labels_from_document({"labels": labels, "templates": document.get("templates", [])})
    return check_settings(Task, {**document, "labels": named})

"""A task: what is measured, on which files, with which classes, as a TOML file says it.

    name = "EuroSAT"                      metric = "accuracy"
    label_column = "label"                labels = "labels.json", or a list of names, or of {name, group} tables
    templates = ["a satellite photo of {}."]
    [splits]      train = "train.parquet"    validation = "validation.parquet"    test = "test.parquet"
    [expected]    classes = 10    groups = 1    train = 5000    validation = 5000    test = 5000

Only `name`, `metric`, `labels` and `splits.test` must be there. Splits are Parquet files of images, or of features, or
.npz files of features; their paths, and that of the labels, are relative to a folder that is given when they are read,
for the bundled tasks too: those describe public benchmarks, whose data the user brings.
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
    """What is measured on which files: paths per role, the classes or the file that holds them, the counts expected.

    `labels` is a LabelSet, or the path of a file that the user brings, whose templates `templates` go before. `note`
    says in words what the counts and metric follow. Raises ValueError for another metric and where no split tests.
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
            raise ValueError("no split tests; give splits.test, the file to measure on")
        for what, names, known in (("split", self.splits, ROLES), ("expected count", self.expected or {}, COUNTS)):
            unknown = [name for name in names if name not in known]
            if unknown:
                raise ValueError(f"unknown {what} {unknown[0]!r}; known are {', '.join(known)}")

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several labels: a list of names in its label column."""
        return self.metric == "map_11_point"

    def path(self, role: Role, folder: str | Path) -> Place:
        """Return the file of a split in `folder`, a path or a URL; raises ValueError where there is no such split."""
        if role not in self.splits:
            raise ValueError(f"task {self.name!r} has no {role} split; it has {', '.join(self.splits)}")
        return below(folder, self.splits[role])


def read_task(place: str | Path) -> Task:
    """Read a task from a TOML file, or by the name of a bundled one, such as "elevater/eurosat".

    Raises ValueError naming the file and what is wrong in it, FileNotFoundError where there is neither.
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
    """Return the classes of a task, read from `folder` where it names a file; its own templates come first.

    Raises FileNotFoundError where the file is not there, ValueError for what `read_labels` refuses.
    """
    labels = task.labels
    if isinstance(labels, str):
        place = below(folder, labels)
        if isinstance(place, str):
            raise ValueError(
                f"the labels of {task.name} are at {place}; download them, and name a path of this machine"
            )
        labels = read_labels(place)
    return replace(labels, templates=task.templates or labels.templates)


def _task(document: Mapping[str, Any]) -> Task:
    labels = document.get("labels")
    if labels is None or isinstance(labels, str):
        return check_settings(Task, document)
    named = labels_from_document({"labels": labels, "templates": document.get("templates", [])})
    return check_settings(Task, {**document, "labels": named})

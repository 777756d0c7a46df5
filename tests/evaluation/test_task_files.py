import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_clip.data import LabelSet
from rag_clip.evaluation.task import Task, read_task
from rag_clip.evaluation.task_files import check_task, read_test, read_train, read_validation

LABELS = LabelSet(("red", "blue"), groups=("warm", "cold"))
TASK = Task(
    "Colours",
    "accuracy",
    {"train": "train.npz", "validation": "validation.parquet", "test": "test.parquet"},
    LABELS,
    expected={"classes": 2, "groups": 2, "train": 3, "validation": 2, "test": 2},
)


def write_features(path: Path, names: Sequence[str | list[str]]) -> None:
    vectors = pa.array([[1.0, float(row)] for row in range(len(names))])
    pq.write_table(pa.table({"vector": vectors, "label": names}), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.savez(tmp_path / "train.npz", image=np.eye(3), label=np.array(["red", "blue", "red"]))
    write_features(tmp_path / "validation.parquet", ["red", "blue"])
    write_features(tmp_path / "test.parquet", ["blue", "red"])
    return tmp_path


def test_the_files_of_a_task_are_read_by_what_they_are_for(folder: Path):
    assert check_task(TASK, folder) == ()
    assert read_train(TASK, folder).targets.tolist() == [0, 1, 0]
    assert read_validation(TASK, folder).targets.tolist() == [0, 1]
    assert read_test(TASK, folder).truth.tolist() == [1, 0]


def test_a_file_of_images_is_not_read_as_features(folder: Path):
    pq.write_table(pa.table({"image": [b"", b""], "label": ["red", "blue"]}), folder / "test.parquet")
    assert check_task(TASK, folder) == ()
    with pytest.raises(ValueError, match=r"test\.parquet holds images, not features; encode them"):
        read_test(TASK, folder)


def test_every_fault_of_the_files_is_told(folder: Path):
    (folder / "train.npz").unlink()
    write_features(folder / "validation.parquet", ["red", "pink"])
    write_features(folder / "test.parquet", ["red", "red", "red"])
    assert check_task(TASK, folder) == (
        f"train: there is no file {folder / 'train.npz'}",
        f"validation: {folder / 'validation.parquet'}: 1 label not among the 2 classes, such as 'pink'; "
        "add them to the label set, or leave those rows out",
        f"test: {folder / 'test.parquet'} holds 3 images, expected 2",
        f"test: {folder / 'test.parquet'}: 1 class without an image, such as 'blue'",
    )


def test_columns_that_are_missing_and_files_that_cannot_be_read_are_told(folder: Path):
    pq.write_table(pa.table({"label": ["red", "blue"]}), folder / "validation.parquet")
    (folder / "train.npz").write_text("broken")
    pq.write_table(pa.table({"image": [b"", b""], "name": ["red", "blue"]}), folder / "test.parquet")
    train, validation, test = check_task(TASK, folder)
    assert train.startswith(f"train: {folder / 'train.npz'}: ")
    assert validation.endswith("validation.parquet: has no column 'image' of images, nor one of features")
    assert test.endswith("test.parquet: has no column 'label'; it has image, name")


def test_several_labels_are_for_the_metric_that_measures_them(folder: Path):
    pq.write_table(pa.table({"image": [b"", b""], "label": [["red", "blue"], []]}), folder / "test.parquet")
    several = Task("Colours", "map_11_point", {"test": "test.parquet"}, LABELS)
    assert check_task(several, folder) == ()
    assert [problem.split("test.parquet: ")[1] for problem in check_task(TASK, folder)] == [
        "1 image without a label",
        "1 image with several labels, which accuracy does not measure",
    ]


def test_a_split_may_be_a_folder_of_files(folder: Path):
    parts = folder / "parts"
    parts.mkdir()
    task = replace(TASK, splits={"test": "parts"})
    assert check_task(task, folder) == (f"test: {parts}: the folder holds no .parquet file",)
    write_features(parts / "a.parquet", ["red"])
    write_features(parts / "b.parquet", ["red", "red"])
    assert check_task(task, folder) == (
        f"test: {parts} holds 3 images, expected 2",
        f"test: {parts}: 1 class without an image, such as 'blue'",
    )


def test_every_split_of_a_task_of_several_labels_is_read_with_them(folder: Path):
    write_features(folder / "validation.parquet", [["red", "blue"], ["blue"]])
    write_features(folder / "test.parquet", [["red", "blue"], []])
    np.savez(folder / "train.npz", image=np.eye(3), label=np.array([[True, True], [False, True], [False, False]]))
    several = replace(TASK, metric="map_11_point", expected=None)
    assert check_task(several, folder) == ()
    assert read_train(several, folder).targets.tolist() == [[True, True], [False, True], [False, False]]
    assert read_validation(several, folder).targets.tolist() == [[True, True], [False, True]]
    assert read_test(several, folder).truth.tolist() == [[True, True], [False, False]]
    assert [problem.split("train.npz: ")[1] for problem in check_task(TASK, folder)[:2]] == [
        "1 image without a label",
        "1 image with several labels, which accuracy does not measure",
    ]


def test_labels_that_do_not_fit_are_told(folder: Path):
    task = Task("Colours", "accuracy", TASK.splits, "labels.json", expected={"classes": 3, "groups": 2})
    assert check_task(task, folder) == (
        f"labels: there is no label file {folder / 'labels.json'}; give a .txt, .toml, .json, .parquet file",
    )
    (folder / "labels.json").write_text(json.dumps([{"name": "red", "group": "warm"}, "blue"]))
    assert check_task(task, folder) == (
        "labels: there are 2 classes, expected 3",
        "labels: 1 class without a group, such as 'blue'",
    )


def test_a_bundled_task_says_what_the_user_brings(tmp_path: Path):
    assert check_task(read_task("openness/living17"), tmp_path) == (
        f"labels: there is no label file {tmp_path / 'openness/living17/labels.json'}; "
        "give a .txt, .toml, .json, .parquet file",
        f"test: there is no file {tmp_path / 'openness/living17/test.parquet'}",
    )

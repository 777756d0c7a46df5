"""Few shots in evaluate that cannot be drawn, found by `check` before anything is encoded, or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inputs.pictures import picture, write_images
from inputs.shots import NAMES, features_file, pets
from inputs.tasks import ENCODER, colour_task, prompt_files
from rag_clip.evaluation.check import check_evaluation
from rag_clip.evaluation.image_tasks import open_tasks
from rag_clip.evaluation.shot_runs import FewShot, Heads
from rag_clip.pipelines.evaluate import evaluate
from rag_clip.pipelines.running import Running


def uneven_file(path: Path) -> Path:
    """Write features of four cats, two dogs and no owl."""
    np.savez(path, image=np.eye(6), label=[0, 0, 0, 0, 1, 1], classes=NAMES)
    return path


def test_shots_are_not_drawn_from_the_file_that_tests(tmp_path: Path) -> None:
    task = pets(tmp_path)
    with pytest.raises(ValueError, match=r"the train split .* of Pets is also its test split"):
        evaluate(
            [replace(task, train=task.paths[0])],
            output=tmp_path / "r.parquet",
            heads=Heads(few_shot=FewShot(("ridge",), (1,))),
        )


def test_a_train_split_is_read_before_it_is_drawn_from_and_its_faults_are_named(tmp_path: Path) -> None:
    task, texts, few = colour_task(tmp_path), prompt_files(tmp_path)[:1], FewShot(("ridge",), (1,))
    train = write_images(tmp_path / "train.parquet", [picture("red")] * 2, label=["red", "mauve"])

    def run(place: Path) -> None:
        evaluate(
            [replace(task, train=place)],
            prompts=texts,
            output=tmp_path / "r.parquet",
            encoder=ENCODER,
            running=Running(0),
            heads=Heads(few_shot=few),
        )

    with pytest.raises(ValueError, match=r"the train split of .*train\.parquet: .* 1 label .* such as 'mauve'"):
        run(train)
    with pytest.raises(FileNotFoundError, match=r"split .*gone\.parquet of colours does not exist; put it there"):
        run(tmp_path / "gone.parquet")


def test_a_head_of_two_encoders_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="como_f needs the images' features by a second encoder too; name one"):
        evaluate([pets(tmp_path)], output=tmp_path / "r.parquet", heads=Heads(few_shot=FewShot(("como_f",), (1,))))
    assert not (tmp_path / "r.parquet").exists()


def test_check_names_classes_of_the_train_split_with_fewer_images_than_shots(tmp_path: Path) -> None:
    pets(tmp_path)
    place = uneven_file(tmp_path / "train.npz")
    opened = open_tasks([tmp_path / "pets.toml"], folder=tmp_path)
    empty = f"Pets: train: {place}: 1 class without an image, such as 'owl'"
    assert check_evaluation(opened, few_shot=FewShot(("ridge",), (2, "all"))) == (empty,)
    assert check_evaluation(opened, few_shot=FewShot(("ridge",), (2, 5))) == (
        empty,
        "Pets: train: 2 classes with fewer than 5 images to draw: 'cat' (4), 'dog' (2)",
    )


def test_check_names_classes_that_leave_nothing_to_measure_and_a_missing_train_split(tmp_path: Path) -> None:
    opened = open_tasks([features_file(tmp_path / "few.npz", images=3, seed=0)])
    assert check_evaluation(opened, few_shot=FewShot(("ridge",), (2,))) == ()
    assert check_evaluation(opened, few_shot=FewShot(("ridge",), (3, "all"))) == (
        "few: no train split, from which all images would be drawn; name one, or give a number of shots",
        "few: test: 3 classes with no image left beside 3 shots: 'cat' (3), 'dog' (3), 'owl' (3)",
    )


def test_check_finds_a_train_split_that_tests(tmp_path: Path) -> None:
    pets(tmp_path)
    task, folder = open_tasks([tmp_path / "pets.toml"], folder=tmp_path)[0]
    same = replace(task, splits={"train": "test.npz", "test": "test.npz"})
    assert check_evaluation([(same, folder)], few_shot=FewShot(("ridge",), (2,))) == (
        f"Pets: the train split is the test split, {tmp_path / 'test.npz'}; draw shots from other images",
    )


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ({"heads": (), "shots": (1,)}, "few shots need a head and a number of shots"),
        ({"heads": ("rigde",), "shots": (1,)}, "unknown head 'rigde'; known are"),
        ({"heads": ("ridge",), "shots": (0,)}, r"shots are \(0,\) and seeds 3; give numbers of at least 1"),
        ({"heads": ("ridge",), "shots": (4, 1), "validate": True}, "none can be held out for validation; draw two"),
        ({"heads": ("ridge",), "shots": (1,), "options": {"tip_x": {}}}, "settings for 'tip_x', which is none of"),
    ],
)
def test_protocols_that_cannot_be_are_refused(protocol: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FewShot(**protocol)


def test_a_head_that_trains_texts_needs_the_model_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="coop trains texts through an encoder; name the model"):
        evaluate([pets(tmp_path)], output=tmp_path / "r.parquet", heads=Heads(few_shot=FewShot(("coop",), (1,))))
    assert not (tmp_path / "r.parquet").exists()

"""Images of several labels in evaluate: measured as they are, drawn from, and learned by a head."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.pictures import picture, write_images
from inputs.tasks import ENCODER, LABELS, prompt_files
from rag_clip.classifiers.linear_probe import LinearProbeSettings
from rag_clip.cli import app
from rag_clip.data import LabelSet, SeveralLabels
from rag_clip.evaluation.check import check_evaluation
from rag_clip.evaluation.feature_file import read_features
from rag_clip.evaluation.image_tasks import ImageTask, image_task, open_tasks
from rag_clip.evaluation.results import Result
from rag_clip.evaluation.shot_runs import FewShot, Heads
from rag_clip.evaluation.splits import Train
from rag_clip.files.labels import write_labels
from rag_clip.metrics.ranking import mean_average_precision
from rag_clip.pipelines.evaluate import evaluate
from rag_clip.pipelines.running import Running

NAMES, WIDTH = ("cat", "dog", "owl", "fox"), 16
FIXED: dict[str, Any] = {"linear_probe": {"rate": 1e-1, "weight_decay": 1e-4}}
PAIRS = ((0,), (1,), (0, 1), (1, 2), (2, 3), (3,))


def draw_rows(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy features [n, 16] of `images` of every pair, and their labels, bool [n, 4]."""
    random, centres = np.random.default_rng(seed), np.eye(4, WIDTH)
    label = np.zeros((images * len(PAIRS), 4), dtype=bool)
    for row in range(len(label)):
        label[row, list(PAIRS[row % len(PAIRS)])] = True
    return label @ centres + 0.2 * random.normal(size=(len(label), WIDTH)), label


def write_parquet(path: Path, images: int, seed: int) -> Path:
    image, label = draw_rows(images, seed)
    names = [[NAMES[column] for column in row.nonzero()[0]] for row in label]
    pq.write_table(pa.table({"vector": image.tolist(), "label": names}), path)
    return path


def write_npz(path: Path, images: int, seed: int) -> Path:
    """Write features with a text that takes dogs for owls."""
    image, label = draw_rows(images, seed)
    text = np.eye(4, WIDTH)[[0, 2, 1, 3]]
    np.savez(path, image=image, label=label, classes=NAMES, text=text, templates=["a {}"], scale=20.0)
    return path


def pets(folder: Path) -> Path:
    """Write a task of features with a train and a test split, and return its file."""
    write_parquet(folder / "train.parquet", images=12, seed=0)
    write_npz(folder / "test.npz", images=20, seed=1)
    (folder / "pets.toml").write_text(
        f'name = "Pets"\nmetric = "map_11_point"\nlabels = {list(NAMES)}\n'
        'splits = { train = "train.parquet", test = "test.npz" }\n'
    )
    return folder / "pets.toml"


def open_pets(folder: Path) -> ImageTask:
    return image_task(*open_tasks([pets(folder)], folder=folder)[0])


def by_hand(folder: Path) -> float:
    """Return the 11-point precision of a probe on all images of the train split, ranked by its logits."""
    train = read_features(folder / "train.parquet", labels=LabelSet(NAMES), multilabel=True)
    test = read_features(folder / "test.npz", multilabel=True)
    support = Train(train.features, train.labels, train.truth).support()
    logits = LinearProbeSettings(**FIXED["linear_probe"]).build(test.zero_shot(), support)(test.features)
    assert isinstance(test.truth, SeveralLabels)
    return mean_average_precision(logits, test.truth.marks, eleven_points=True)


def run(found: tuple[Result, ...]) -> list[tuple[str, str]]:
    return [(one.run, one.main.metric) for one in found]


def test_a_probe_learns_from_shots_of_several_labels_what_the_text_has_wrong(tmp_path: Path) -> None:
    few = FewShot(("linear_probe",), (2, "all"), seeds=2, options=FIXED)
    found = evaluate([open_pets(tmp_path)], output=tmp_path / "r.parquet", heads=Heads(few_shot=few)).results
    assert run(found) == [
        ("a {}", "map_11_point"),
        ("a {} + linear_probe, 2 shots", "map_11_point"),
        ("a {} + linear_probe, all shots", "map_11_point"),
    ]
    text, two, whole = (one.main.value for one in found)
    assert text < two < whole
    assert whole > 0.9
    assert whole == pytest.approx(by_hand(tmp_path), abs=1e-9)
    cost = found[2].get("parameters")
    assert cost is not None
    assert (cost.value, found[2].counts.drawn) == (4 * (WIDTH + 1), (72,))


def test_validation_holds_out_a_fifth_of_every_class(tmp_path: Path) -> None:
    few = FewShot(("linear_probe",), (5,), seeds=1, validate=True, options=FIXED)
    found = evaluate([open_pets(tmp_path)], output=tmp_path / "r.parquet", heads=Heads(few_shot=few)).results
    assert found[1].main.value > found[0].main.value


def test_heads_of_one_label_refuse_the_shots(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"images with several labels.*linear_probe learns from several"):
        evaluate([open_pets(tmp_path)], output=tmp_path / "r.parquet", heads=Heads(few_shot=FewShot(("ridge",), (2,))))


def test_a_file_alone_says_by_its_labels_that_images_have_several(tmp_path: Path) -> None:
    place = write_npz(tmp_path / "pets.npz", images=6, seed=2)
    found = evaluate(
        [image_task(*open_tasks([place])[0])],
        output=tmp_path / "r.parquet",
        heads=Heads(few_shot=FewShot(("linear_probe",), (3,), seeds=1, options=FIXED)),
    ).results
    assert run(found) == [("a {}", "map_11_point"), ("a {} + linear_probe, 3 shots", "map_11_point")]
    (drawn,) = found[1].counts.drawn or ()
    assert found[1].counts.images == 36 - drawn


def colours(path: Path, labels: Sequence[Sequence[str] | None]) -> Path:
    """Write pictures in the first colour of their labels, red where they have none."""
    return write_images(path, [picture(names[0] if names else "red") for names in labels], label=labels)


def test_images_with_lists_of_labels_are_encoded_ranked_and_learned(tmp_path: Path) -> None:
    colours(tmp_path / "test.parquet", [["red"], ["green"], ["blue"], ["red"], [], ["blue", "green"]])
    colours(tmp_path / "train.parquet", [["red"], ["blue", "green"], ["green"], ["red"], ["green"], []])
    write_labels(LABELS, tmp_path / "labels.json")
    (tmp_path / "colours.toml").write_text(
        'name = "Colours"\nmetric = "map_11_point"\nlabels = "labels.json"\n'
        'splits = { train = "train.parquet", test = "test.parquet" }\n'
    )
    opened = open_tasks([tmp_path / "colours.toml"], folder=tmp_path)
    assert check_evaluation(opened) == ()
    tasks = [image_task(*opened[0]), image_task(*open_tasks([tmp_path / "test.parquet"], labels=LABELS)[0])]
    few = FewShot(("linear_probe",), ("all",), options=FIXED)
    found = evaluate(
        tasks[:1],
        prompts=prompt_files(tmp_path),
        output=tmp_path / "r.parquet",
        encoder=ENCODER,
        running=Running(0),
        heads=Heads(few_shot=few),
    ).results
    alone = evaluate(
        tasks[1:], prompts=prompt_files(tmp_path), output=tmp_path / "s.parquet", encoder=ENCODER, running=Running(0)
    ).results
    assert [one.run for one in found] == [
        "good", "good + linear_probe, all shots", "bad", "bad + linear_probe, all shots",
    ]  # fmt: skip
    assert found[3].main.value > found[2].main.value
    assert [one.main for one in alone] == [found[0].main, found[2].main]


def test_the_verb_measures_a_task_of_several_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", str(pets(tmp_path)), "--data", str(tmp_path), "-o", str(tmp_path / "r.parquet")]
    app([*arguments, "--shots", "2", "--seeds", "1", "--head", "linear_probe", "--json"], result_action="return_value")
    found = json.loads(capsys.readouterr().out)["runs"]
    assert [one["run"] for one in found] == ["a {}", "a {} + linear_probe, 2 shots"]

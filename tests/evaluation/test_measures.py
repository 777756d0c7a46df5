"""The numbers of a run: all with intervals that hold them, and what cannot be measured refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inputs.tasks import ENCODER, colour_task, prompt_files
from rag_clip.data import LabelSet, SeveralLabels
from rag_clip.evaluation.measures import measure
from rag_clip.evaluation.results import Measure
from rag_clip.evaluation.task import Metric
from rag_clip.pipelines.evaluate import evaluate
from rag_clip.pipelines.running import Running

LABELS = LabelSet(("ant", "bee", "cat", "dog", "elk", "fox"), groups=("insect", "insect", "pet", "pet", "wild", "wild"))
PAIR = LabelSet(("no", "yes"))


def noise(classes: int = 6, images: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    targets = torch.arange(classes).repeat_interleave(images)
    logits = 2 * torch.randn(len(targets), classes, generator=draw)
    return logits + 2 * torch.nn.functional.one_hot(targets, classes), targets


def values(found: tuple[Measure, ...]) -> dict[tuple[str, str], float]:
    return {(one.metric, one.item): one.value for one in found}


@pytest.mark.parametrize("kind", ["accuracy", "roc_auc", "map_11_point"])
def test_every_number_has_an_interval_that_holds_it(kind: Metric) -> None:
    logits, targets = noise(2 if kind == "roc_auc" else 6)
    several = SeveralLabels(torch.nn.functional.one_hot(targets).bool() | (torch.arange(logits.shape[1]) == 3))
    truth, labels = several if kind == "map_11_point" else targets, PAIR if kind == "roc_auc" else LABELS
    found = measure(logits, truth, labels, metric=kind)
    assert found[0].metric == kind
    whole = [one.metric for one in found if not one.item]
    assert (
        whole
        == {
            "accuracy": ["accuracy", "top5", "mean_per_class", "ece", "brier", "aurc", "acc_c", "acc_e", "acc_s"],
            "roc_auc": ["roc_auc", "accuracy", "mean_per_class", "ece", "brier", "aurc"],
            "map_11_point": ["map_11_point", "map"],
        }[kind]
    )
    bounds = [(one.low, one.value, one.high) for one in found]
    assert all(low is not None and high is not None and low <= value <= high for low, value, high in bounds)
    uncertain = [low for low, value, high in bounds if low != high and 0.01 < value < 0.99]
    assert len(uncertain) == len([value for _, value, _ in bounds if 0.01 < value < 0.99])


def test_a_class_without_images_distracts_and_is_in_no_mean() -> None:
    logits = torch.tensor([[3.0, 1, 0, 2, 0, 5], [3, 1, 0, 0, 0, 0], [0, 0, 4, 0, 0, 0]])
    found = measure(logits, torch.tensor([0, 0, 2]), LABELS)
    held = values(found)
    assert [key for key in held if key[0] == "recall"] == [("recall", "ant"), ("recall", "cat")]
    assert held["accuracy", ""] == pytest.approx(2 / 3)
    assert held["mean_per_class", ""] == pytest.approx(0.75)
    # The first image has one of two other groups against it: it is right alone, and in one of three, then two, steps.
    assert [held[name, ""] for name in ("acc_c", "acc_e", "acc_s")] == pytest.approx([1.0, 0.875, 0.8125])


def test_ties_count_against_the_label_in_every_accuracy() -> None:
    held = values(measure(torch.zeros(6, 6), torch.arange(6), LABELS))
    wrong = ["accuracy", "top5", "mean_per_class", "acc_c", "acc_e", "acc_s"]
    assert {name: held[name, ""] for name in wrong} == dict.fromkeys(wrong, 0.0)
    assert {value for (metric, _), value in held.items() if metric in ("recall", "accuracy_by_groups")} == {0.0}
    assert held["ece", ""] == pytest.approx(1 / 6)
    assert values(measure(torch.zeros(6, 2), torch.arange(6) % 2, PAIR, metric="roc_auc"))["roc_auc", ""] == 0.5


def test_one_group_or_none_has_no_openness_and_groups_of_some_classes_are_refused() -> None:
    logits, targets = noise()
    for groups in (("all",) * 6, ()):
        held = values(measure(logits, targets, LabelSet(LABELS.names, groups=groups)))
        assert not [metric for metric, _ in held if metric.startswith(("acc_", "accuracy_by_groups"))]
    some = LabelSet(LABELS.names, groups=("insect", "insect", "pet", "", "wild", " "))
    with pytest.raises(ValueError, match="2 classes without a group, such as 'dog'; name a group for every class"):
        measure(logits, targets, some)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("several", [False, True], ids=["one label", "several"])
def test_logits_that_are_not_finite_are_refused_by_row(bad: float, several: bool) -> None:
    logits, targets = noise()
    logits[7, 3] = bad
    truth = SeveralLabels(torch.nn.functional.one_hot(targets).bool()) if several else targets
    with pytest.raises(ValueError, match="row 7 of the logits holds NaN or infinity; classify that image again"):
        measure(logits, truth, LABELS)


def test_what_roc_auc_cannot_rank_is_refused() -> None:
    logits, targets = noise()
    with pytest.raises(ValueError, match="ROC-AUC ranks images of two classes, and there are 6; use another metric"):
        measure(logits, targets, LABELS, metric="roc_auc")
    with pytest.raises(ValueError, match="every image is positive; ROC-AUC compares"):
        measure(torch.zeros(3, 2), torch.ones(3, dtype=torch.int64), PAIR, metric="roc_auc")


def test_labels_of_images_outside_the_label_set_are_refused_before_anything_is_kept(tmp_path: Path) -> None:
    task = colour_task(tmp_path)
    others = LabelSet(("red", "green", "azure"))
    texts = [replace(one, prompts=replace(one.prompts, labels=others)) for one in prompt_files(tmp_path)]
    with pytest.raises(ValueError, match=r"column 'label': 1 label not among the 3 classes, such as 'blue'; add them"):
        evaluate(
            [replace(task, labels=others)],
            prompts=texts,
            output=tmp_path / "r.parquet",
            encoder=ENCODER,
            running=Running(0),
        )
    assert not (tmp_path / "r.parquet").exists()


def test_labels_outside_the_classes_are_refused_by_row() -> None:
    logits, targets = noise()
    targets[4] = 6
    with pytest.raises(ValueError, match="the target of row 4 is 6, outside the 6 classes; count from 0"):
        measure(logits, targets, LABELS)
    with pytest.raises(ValueError, match=r"scores are \(60, 6\) and labels torch.bool \(60, 5\)"):
        measure(logits, SeveralLabels(torch.ones(60, 5, dtype=torch.bool)), LABELS)

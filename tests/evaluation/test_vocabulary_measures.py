"""What is measured of the vocabulary, on logits whose numbers are counted by hand."""

from __future__ import annotations

import pytest
import torch

from rag_clip.data import LabelSet, SeveralLabels, Targets
from rag_clip.evaluation.text_measures import measure_vocabulary

LABELS = LabelSet(("oak", "elm", "cod", "eel"), groups=("tree", "tree", "fish", "fish"))
TRUTH = torch.tensor([0, 0, 1, 2])
# One right oak, one oak that elm and cod take, a right elm, and a cod that ties with the other fish.
LOGITS = torch.tensor([[5.0, 1, 2, 0], [1, 2, 3, 0], [0, 4, 1, 2], [1, 0, 3, 3]])


def measured(
    logits: torch.Tensor = LOGITS, truth: Targets = TRUTH, labels: LabelSet = LABELS
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for one in measure_vocabulary(logits, truth, labels):
        found.setdefault(one.metric, {})[one.item] = one.value
    return found


def test_the_curve_goes_from_one_class_to_the_mean_per_class() -> None:
    # Classes count alike: oak is right in 1/2, elm in 1, cod in 0; of 3 others, oak has 2 thieves and cod 1.
    assert measured()["accuracy_by_classes"] == pytest.approx(
        {"1": 1.0, "2": (2 / 3 + 1 + 2 / 3) / 3, "3": (1 / 2 + 1 + 1 / 3) / 3, "4": (1 / 2 + 1 + 0) / 3}
    )


def test_the_curve_of_many_classes_has_at_most_forty_sizes_with_both_ends() -> None:
    labels = LabelSet(tuple(f"class {row}" for row in range(1000)))
    sizes = [int(size) for size in measured(torch.randn(5, 1000), torch.arange(5), labels)["accuracy_by_classes"]]
    assert (sizes[0], sizes[-1], sizes == sorted(set(sizes))) == (1, 1000, True)
    assert 30 < len(sizes) <= 40


def test_who_takes_whose_images_is_said_by_class_and_by_group() -> None:
    found = measured()
    assert found["taken"] == {"cod ← eel": 1.0, "oak ← elm": 0.5, "oak ← cod": 0.5}
    assert found["thieves_mean"] == {"oak": 0.5, "elm": 0.0, "cod": 0.0}
    assert found["taken_by_group"] == pytest.approx(
        {"tree ← tree": 1 / 3, "tree ← fish": 1 / 3, "fish ← tree": 0.0, "fish ← fish": 1.0}
    )


def test_of_the_pairs_with_the_greatest_share_three_of_a_label_are_kept() -> None:
    names = ("ash", "bay", "fig", "oak", "yew")
    # Every other class takes the ash and one of two figs; the one oak is taken by yew alone.
    logits = torch.tensor([[0.0, 1, 1, 1, 1], [1, 1, 0, 1, 1], [0, 0, 9, 0, 0], [0, 0, 0, 5, 6]])
    assert measured(logits, torch.tensor([0, 2, 2, 3]), LabelSet(names))["taken"] == {
        "ash ← bay": 1.0, "ash ← fig": 1.0, "ash ← oak": 1.0, "oak ← yew": 1.0,
        "fig ← ash": 0.5, "fig ← bay": 0.5, "fig ← oak": 0.5,
    }  # fmt: skip


def test_margins_are_quantiles_from_the_least_to_the_greatest_and_a_mean() -> None:
    found = measured()
    first, last = found["margin_first"], found["margin_last"]
    assert {item: first[item] for item in ("0.00", "0.50", "1.00")} == {"0.00": -1.0, "0.50": 2.0, "1.00": 4.0}
    ends = {item: last[item] for item in ("", "0.00", "0.50", "1.00")}
    assert ends == {"": 0.75, "0.00": -2.0, "0.50": 1.0, "1.00": 3.0}
    assert [len(first), len(last)] == [21, 22]
    mean = next(
        one for one in measure_vocabulary(LOGITS, TRUTH, LABELS) if (one.metric, one.item) == ("margin_last", "")
    )
    assert mean.low is not None
    assert mean.high is not None
    assert mean.low < 0.75 < mean.high


def test_without_groups_only_what_needs_none_is_measured() -> None:
    found = measured(labels=LabelSet(LABELS.names))
    assert list(found) == ["accuracy_by_classes", "taken", "margin_last"]
    assert found["taken"] == measured()["taken"]


def test_images_of_classes_alone_in_their_group_have_no_first_margin() -> None:
    found = measured(labels=LabelSet(LABELS.names, groups=("a", "b", "c", "c")))
    assert set(found["margin_first"].values()) == {0.0}
    assert "margin_first" not in measured(labels=LabelSet(LABELS.names, groups=("a", "b", "c", "d")))


def test_one_class_and_several_labels_measure_nothing() -> None:
    assert measured(torch.ones(2, 1), torch.tensor([0, 0]), LabelSet(("oak",))) == {}
    assert measured(LOGITS, SeveralLabels(torch.ones(4, 4, dtype=torch.bool))) == {}

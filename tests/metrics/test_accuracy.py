"""Accuracy, ties, tables by class: by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from rag_clip.metrics.accuracy import (
    Confusion,
    accuracy,
    confusion_matrix,
    confusion_pairs,
    is_right,
    mean_per_class,
    per_class,
    predict,
)

LOGITS = torch.tensor([[3.0, 1, 0], [1, 1, 0], [0, 2, 2], [0, 1, 5], [2, 0, 1], [7, 7, 7]])
TARGETS = torch.tensor([0, 0, 1, 2, 2, 1])


def noise(rows: int = 300, classes: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    targets = torch.randint(classes, (rows,), generator=draw)
    return torch.randn(rows, classes, generator=draw) + torch.nn.functional.one_hot(targets, classes), targets


def test_a_tie_counts_against_the_label() -> None:
    assert is_right(LOGITS, TARGETS).tolist() == [True, False, False, True, False, False]
    assert predict(LOGITS, TARGETS).tolist() == [0, 1, 2, 2, 0, 0]
    assert accuracy(LOGITS, TARGETS) == 2 / 6


def test_a_tie_counts_against_the_label_in_top_k_too() -> None:
    assert accuracy(LOGITS, TARGETS, k=2) == 5 / 6
    assert accuracy(LOGITS, TARGETS, k=3) == 1.0


def test_the_table_by_class_is_that_by_hand() -> None:
    table = per_class(LOGITS, TARGETS)
    assert table.images.tolist() == [2, 2, 2]
    assert table.right.tolist() == [1, 0, 1]
    assert table.predicted.tolist() == [3, 1, 2]
    assert table.recall.tolist() == [0.5, 0.0, 0.5]
    assert table.precision.tolist() == [1 / 3, 0.0, 0.5]
    assert mean_per_class(LOGITS, TARGETS) == 1 / 3


def test_a_class_without_images_is_in_no_mean() -> None:
    logits, targets = torch.tensor([[2.0, 0, 1], [0, 1, 3], [4, 0, 0]]), torch.tensor([0, 2, 2])
    assert per_class(logits, targets).recall.isnan().tolist() == [False, True, False]
    assert mean_per_class(logits, targets) == 0.75


def test_the_pairs_most_confused_come_first() -> None:
    assert confusion_matrix(LOGITS, TARGETS).tolist() == [[1, 1, 0], [1, 0, 1], [1, 0, 1]]
    assert confusion_pairs(LOGITS, TARGETS, most=2) == (Confusion(0, 1, 1, 0.5), Confusion(1, 0, 1, 0.5))
    assert len(confusion_pairs(LOGITS, TARGETS)) == 4


def test_accuracies_agree_with_scikit_learn() -> None:
    logits, targets = noise()
    expected = np.asarray(targets), np.asarray(logits.argmax(1))
    assert accuracy(logits, targets) == pytest.approx(reference.accuracy_score(*expected))
    assert accuracy(logits, targets, k=5) == pytest.approx(
        reference.top_k_accuracy_score(targets.numpy(), logits.numpy(), k=5)
    )
    assert mean_per_class(logits, targets) == pytest.approx(reference.balanced_accuracy_score(*expected))
    assert confusion_matrix(logits, targets).tolist() == reference.confusion_matrix(*expected).tolist()
    assert per_class(logits, targets).precision.numpy() == pytest.approx(
        reference.precision_score(*expected, average=None)
    )


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        ([[0.0, 1], [float("nan"), 1]], [0, 1], "row 1 of the logits holds NaN or infinity"),
        ([[0.0, float("-inf")], [0, 1]], [0, 1], "row 0 of the logits holds NaN or infinity"),
        ([[0.0, 1], [0, 1]], [0, 2], r"the target of row 1 is 2, outside the 2 classes"),
        ([[0.0, 1], [0, 1]], [-1, 2], r"the target of row 0 is -1"),
        ([[0.0, 1]], [0, 1], r"targets have shape \(2,\) for 1 row"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_row(logits: list[list[float]], targets: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        is_right(torch.tensor(logits), torch.tensor(targets))


def test_logits_whose_sum_overflows_are_finite_all_the_same() -> None:
    logits = torch.tensor([[6e4, 5e4], [5e4, 6e4]], dtype=torch.float16)
    assert is_right(logits, torch.tensor([0, 0])).tolist() == [True, False]


def test_no_image_and_no_class_are_refused() -> None:
    with pytest.raises(ValueError, match="no image to evaluate"):
        accuracy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"logits have shape \(2, 0\)"):
        accuracy(torch.zeros(2, 0), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"targets are torch\.uint8; give the number"):
        accuracy(LOGITS, TARGETS.byte())
    with pytest.raises(ValueError, match="k is 0"):
        accuracy(LOGITS, TARGETS, k=0)

"""ROC-AUC and average precision: by hand, with ties, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from rag_clip.metrics.ranking import (
    Ranking,
    average_precision,
    eleven_point_precision,
    mean_average_precision,
    rank_images,
    roc_auc,
)
from rag_clip.metrics.uncertainty import bootstrap, bootstrap_corrected


def noise(*, levels: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    labels = torch.rand(400, 5, generator=draw) < torch.tensor([0.02, 0.1, 0.3, 0.5, 0.9])
    scores = torch.randn(400, 5, generator=draw) + labels
    return ((scores * levels).round() if levels else scores), labels


@pytest.mark.parametrize("levels", [0, 1, 4], ids=["no ties", "coarse ties", "fine ties"])
def test_rankings_agree_with_scikit_learn(levels: int) -> None:
    scores, labels = noise(levels=levels)
    for column in range(5):
        given = labels[:, column].numpy(), scores[:, column].numpy()
        assert roc_auc(scores[:, column], labels[:, column]) == pytest.approx(reference.roc_auc_score(*given))
        assert average_precision(scores[:, column], labels[:, column]) == pytest.approx(
            reference.average_precision_score(*given)
        )
    assert mean_average_precision(scores, labels) == pytest.approx(
        reference.average_precision_score(labels.numpy(), scores.numpy(), average="macro")
    )


@pytest.mark.parametrize("levels", [0, 4])
def test_eleven_points_take_the_best_precision_from_each_recall_on(levels: int) -> None:
    scores, labels = noise(levels=levels)
    for column in range(5):
        precision, recall, _ = reference.precision_recall_curve(labels[:, column].numpy(), scores[:, column].numpy())
        precision, recall = precision[:-1], recall[:-1]
        points = [precision[recall >= point / 10 - 1e-9].max() for point in range(11)]
        assert eleven_point_precision(scores[:, column], labels[:, column]) == pytest.approx(np.mean(points))


def test_a_ranking_by_hand() -> None:
    scores, positive = torch.tensor([4.0, 3, 2, 1]), torch.tensor([True, False, True, False])
    assert roc_auc(scores, positive) == 0.75
    assert average_precision(scores, positive) == pytest.approx((1 + 2 / 3) / 2)
    assert eleven_point_precision(scores, positive) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_constant_scores_know_nothing() -> None:
    scores, positive = torch.zeros(4), torch.tensor([True, False, False, False])
    assert (roc_auc(scores, positive), average_precision(scores, positive)) == (0.5, 0.25)


def test_classes_without_a_positive_image_are_in_no_mean() -> None:
    scores, labels = torch.tensor([[2.0, 1], [1, 2]]), torch.tensor([[True, False], [False, False]])
    assert mean_average_precision(scores, labels) == 1.0
    assert mean_average_precision(scores, labels, eleven_points=True) == 1.0


@pytest.mark.parametrize("levels", [0, 4], ids=["no ties", "ties"])
def test_a_ranking_measures_images_as_often_as_they_are_counted(levels: int) -> None:
    scores, labels = noise(levels=levels)
    rows = torch.randint(400, (400,), generator=torch.Generator().manual_seed(1))
    found = rank_images(scores, labels).precision(torch.bincount(rows, minlength=400))
    for points in (False, True):
        expected = mean_average_precision(scores[rows], labels[rows], eleven_points=points)
        assert float(found[int(points)].mean()) == pytest.approx(expected)
    one = torch.zeros(400, dtype=torch.int64)
    one[0] = 1
    assert rank_images(scores, labels).precision(one).isnan().tolist() == [(~labels[0]).tolist()] * 2


def test_corrected_intervals_cover_the_precision_of_classes_of_few_images_more_often() -> None:
    draw, corrected, plain = torch.Generator().manual_seed(0), 0, 0

    def world(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.rand(count, 6, generator=draw) < torch.linspace(0.03, 0.15, 6)
        return torch.randn(count, 6, generator=draw) + 1.5 * labels, labels

    truth = mean_average_precision(*world(100_000))
    for _ in range(40):
        ranking = rank_images(*world(150))

        def measure(rows: torch.Tensor, ranking: Ranking = ranking) -> list[float]:
            return [float(ranking.precision(torch.bincount(rows, minlength=150))[0].nanmean())]

        (found,), (percentiles,) = (again(measure, 150, draws=100) for again in (bootstrap_corrected, bootstrap))
        assert found.low <= found.value <= found.high
        corrected += found.low <= truth <= found.high
        plain += percentiles.low <= truth <= percentiles.high
    assert corrected >= 0.8 * 40
    assert plain < corrected


def test_rankings_that_cannot_be_measured_are_refused() -> None:
    yes, no = torch.tensor([True, True]), torch.tensor([False, False])
    with pytest.raises(ValueError, match="every image is positive"):
        roc_auc(torch.ones(2), yes)
    with pytest.raises(ValueError, match="no image is positive"):
        average_precision(torch.ones(2), no)
    with pytest.raises(ValueError, match="the score of row 1 is not finite"):
        roc_auc(torch.tensor([0.0, float("nan")]), yes)
    with pytest.raises(ValueError, match="one score and one bool per image"):
        roc_auc(torch.ones(3), yes)
    with pytest.raises(ValueError, match="no class has a positive image"):
        mean_average_precision(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"both must be \[n, c\], labels as bool"):
        mean_average_precision(torch.ones(2, 3), torch.zeros(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="the score of row 1 is not finite; classify that image again"):
        mean_average_precision(torch.tensor([[0.0, 0], [0, float("-inf")]]), torch.ones(2, 2, dtype=torch.bool))

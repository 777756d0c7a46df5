import math
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from rag_clip.training.loop import History, Schedule, fit

DRAW = torch.Generator().manual_seed(3)
POINTS = torch.randn(64, 5, generator=DRAW)
TRUTH = (POINTS @ torch.randn(5, 3, generator=DRAW)).argmax(1)


def train(schedule: Schedule, **options: Any) -> tuple[torch.Tensor, History]:
    weights = torch.zeros(5, 3, requires_grad=True)
    history = fit(
        [weights],
        lambda rows: cross_entropy(POINTS[rows] @ weights, TRUTH[rows]),
        rows=64,
        schedule=schedule,
        **options,
    )
    return weights.detach(), history


def test_training_finds_the_classes_of_separable_points():
    weights, history = train(Schedule(epochs=60, batch_size=16, rate=0.1, weight_decay=0))
    assert ((POINTS @ weights).argmax(1) == TRUTH).float().mean() > 0.95
    assert history.losses[0] > 2 * history.losses[-1]
    assert (history.kept, history.scores) == (60, ())


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not():
    schedule = Schedule(epochs=3, batch_size=16)
    assert torch.equal(train(schedule)[0], train(schedule)[0])
    assert not torch.equal(train(schedule)[0], train(Schedule(epochs=3, batch_size=16, seed=1))[0])


def test_the_epoch_that_validation_likes_best_is_kept():
    answers = iter([0.2, 0.9, 0.9, 0.1])
    seen: list[torch.Tensor] = []
    weights = torch.zeros(5, 3, requires_grad=True)

    def validate() -> float:
        seen.append(weights.detach().clone())
        return next(answers)

    history = fit(
        [weights],
        lambda rows: cross_entropy(POINTS[rows] @ weights, TRUTH[rows]),
        rows=64,
        schedule=Schedule(epochs=4),
        validate=validate,
    )
    assert (history.kept, history.scores) == (2, (0.2, 0.9, 0.9, 0.1))
    assert torch.equal(weights.detach(), seen[1])
    assert not torch.equal(seen[1], seen[3])


def test_a_cosine_takes_the_published_rates_at_each_step():
    value = torch.zeros(1, requires_grad=True)
    taken: list[float] = []

    def loss(rows: torch.Tensor) -> torch.Tensor:
        taken.append(float(value.detach()))
        return value.sum()

    schedule = Schedule(
        epochs=3, batch_size=2, rate=1.0, optimiser="sgd", momentum=0, weight_decay=0, warm_up=1, warm_up_rate=0.5
    )
    fit([value], loss, rows=4, schedule=schedule)
    steps = [before - after for before, after in zip(taken, [*taken[1:], float(value.detach())], strict=True)]
    expected = [0.5, 0.5, *(0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4))]
    assert steps == pytest.approx(expected)


def test_a_sampler_decides_the_rows_of_an_epoch():
    seen: list[int] = []
    value = torch.zeros(1, requires_grad=True)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        seen.extend(rows.tolist())
        return value.sum()

    fit(
        [value],
        loss,
        rows=4,
        schedule=Schedule(epochs=2, batch_size=3),
        sampler=lambda _rows, _draw: torch.tensor([3, 3, 0]),
    )
    assert seen == [3, 3, 0, 3, 3, 0]


def test_a_loss_that_is_not_finite_stops_training():
    with pytest.raises(ArithmeticError, match="the loss is inf in epoch 1; lower the rate"):
        fit(
            [torch.ones(1, requires_grad=True)],
            lambda _: torch.tensor(math.inf, requires_grad=True),
            rows=2,
            schedule=Schedule(),
        )


@pytest.mark.parametrize("fault", [{"epochs": 0}, {"batch_size": 0}, {"rate": 0.0}, {"rate": math.nan}])
def test_schedules_that_cannot_train_are_refused(fault: dict[str, Any]):
    with pytest.raises(ValueError, match="cannot train"):
        Schedule(**fault)


def test_training_on_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to train on"):
        fit([torch.ones(1, requires_grad=True)], lambda _: torch.zeros(()), rows=0, schedule=Schedule())

"""The training loop: rates, updates and rounds by hand, rows and streams, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from rag_clip.progress import ProgressEvent
from rag_clip.training.loop import History, Rows, Schedule, Step, rate_at, train

DRAW = torch.Generator().manual_seed(3)
POINTS = torch.randn(64, 5, generator=DRAW)
TRUTH = (POINTS @ torch.randn(5, 3, generator=DRAW)).argmax(1)
PLAIN = Schedule(rate=1.0, optimiser="sgd", momentum=0, weight_decay=0, decay="constant", steps=1)


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype, requires_grad=True)


def loss_of(weights: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda rows: cross_entropy(POINTS.to(weights.dtype)[rows] @ weights, TRUTH[rows])


def trained(schedule: Schedule, **options: Any) -> tuple[torch.Tensor, History]:
    weights = zeros(5, 3)
    history = train([weights], loss_of(weights), Rows(64), schedule=schedule, **options)
    return weights.detach(), history


def test_training_finds_the_classes_of_separable_points() -> None:
    weights, history = trained(Schedule(epochs=60, batch_size=16, rate=0.1, weight_decay=0))
    assert ((POINTS @ weights).argmax(1) == TRUTH).float().mean() > 0.95
    assert history.losses[0] > 2 * history.losses[-1]
    assert (history.kept, history.scores) == (60, ())


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not() -> None:
    schedule = Schedule(epochs=3, batch_size=16)
    assert torch.equal(trained(schedule)[0], trained(schedule)[0])
    assert not torch.equal(trained(schedule)[0], trained(replace(schedule, seed=1))[0])


def test_the_round_that_validation_likes_best_is_kept_with_all_that_training_changes() -> None:
    answers = iter([0.2, 0.9, 0.9, 0.1])
    weights, seen, statistics = zeros(5, 3), list[torch.Tensor](), torch.zeros(1)

    def validate() -> float:
        statistics.add_(1)
        seen.append(weights.detach().clone())
        return next(answers)

    history = train([weights, statistics], loss_of(weights), Rows(64), schedule=Schedule(epochs=4), validate=validate)
    assert (history.kept, history.scores) == (2, (0.2, 0.9, 0.9, 0.1))
    assert torch.equal(weights.detach(), seen[1])
    assert not torch.equal(seen[1], seen[3])
    assert statistics.item() == 2


def test_a_cosine_takes_the_published_rates_at_each_step() -> None:
    value, taken = zeros(1), list[float]()

    def loss(rows: torch.Tensor) -> torch.Tensor:
        taken.append(float(value.detach()))
        return value.sum()

    schedule = replace(PLAIN, steps=None, epochs=3, batch_size=2, decay="cosine", warm_up=1, warm_up_rate=0.5)
    train([value], loss, Rows(4), schedule=schedule)
    steps = [before - after for before, after in zip(taken, [*taken[1:], float(value.detach())], strict=True)]
    expected = [0.5, 0.5, *(0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4))]
    assert steps == pytest.approx(expected)


def test_a_schedule_by_steps_rises_linearly_and_falls_by_a_cosine() -> None:
    done: list[Step] = []
    schedule = replace(PLAIN, rate=0.8, decay="cosine", steps=8, warm_up=4, warm_up_rate=None)
    value = zeros(1)
    train([value], lambda _: value.sum(), count, schedule=schedule, after=done.append)
    falling = [0.8, 0.4 * (1 + math.sqrt(0.5)), 0.4, 0.4 * (1 - math.sqrt(0.5))]
    assert [step.rate for step in done] == pytest.approx([0.2, 0.4, 0.6, 0.8, *falling])
    assert [(step.number, step.total) for step in done] == [(number, 8) for number in range(1, 9)]
    assert [step.loss for step in done[:3]] == pytest.approx([0.0, -0.2, -0.6])
    assert rate_at(schedule, 8, total=8) == 0
    assert rate_at(replace(schedule, decay="constant"), 7, total=8) == 0.8


def test_gradients_longer_than_the_bound_are_scaled_down_together_and_others_stay() -> None:
    first, second = zeros(1), zeros(2)
    for clip, expected in ((1.0, [-0.6, -0.8]), (10.0, [-3.0, -4.0])):
        with torch.no_grad():
            first.zero_()
            second.zero_()
        train([first, second], lambda _: 3 * first.sum() + 4 * second[0], count, schedule=replace(PLAIN, clip=clip))
        assert [first.item(), *second.tolist()] == pytest.approx([*expected, 0.0], rel=1e-5)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_accumulated_batches_are_one_large_batch_the_last_of_an_epoch_too(optimiser: Any) -> None:
    large = Schedule(epochs=3, batch_size=24, rate=0.1, optimiser=optimiser, clip=0.5, warm_up=1)  # 24, 24 and 16 rows
    results = []
    for schedule in (large, replace(large, batch_size=6, accumulate=4)):
        weights, done = zeros(5, 3, dtype=torch.float64), list[Step]()
        history = train([weights], loss_of(weights), Rows(64), schedule=schedule, after=done.append)
        results.append((weights.detach(), [step.rate for step in done], history.losses))
    (whole, rates, losses), (parts, same_rates, same_losses) = results
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    assert same_rates == rates
    assert same_losses == pytest.approx(losses, rel=1e-12)


def test_a_stream_trains_as_the_same_rows_do() -> None:
    def stream(first: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(7)
        batches = (part for _ in count() for part in torch.split(torch.randperm(64, generator=generator), 16))
        return ((POINTS[rows], TRUTH[rows]) for number, rows in enumerate(batches) if number >= first)

    schedule, weights = Schedule(steps=10, every=4, batch_size=16, rate=0.1, seed=7), zeros(5, 3)
    history = train([weights], lambda pair: cross_entropy(pair[0] @ weights, pair[1]), stream, schedule=schedule)
    rows, of_rows = trained(schedule)
    assert torch.equal(weights.detach(), rows)
    assert history == of_rows
    assert (len(history.losses), history.kept) == (3, 3)


@pytest.mark.parametrize(("decayed", "shrunk"), [("all", [0.75, 0.75]), ("matrices", [0.75, 1.0])])
def test_decay_may_spare_vectors(decayed: Any, shrunk: list[float]) -> None:
    matrix, vector = torch.ones(2, 2, requires_grad=True), torch.ones(2, requires_grad=True)
    schedule = Schedule(rate=0.5, weight_decay=0.5, decay="constant", steps=1, decayed=decayed)
    train([vector, matrix], lambda _: 0 * (matrix.sum() + vector.sum()), count, schedule=schedule)
    assert [matrix[0, 0].item(), vector[0].item()] == shrunk


def test_betas_are_those_of_adam() -> None:
    value = zeros(1)
    schedule = Schedule(rate=1.0, weight_decay=0, decay="constant", steps=2, betas=(0.5, 0.75), epsilon=1e-12)
    train([value], lambda step: value.sum() * (1 - 2 * step), count, schedule=schedule)  # gradients 1 and -1
    # step 1: 1 / 1; step 2: mean (0.5 * 0.5 - 0.5) / 0.75 = -1/3 over a root of the mean square of 1
    assert value.item() == pytest.approx(-1 + 1 / 3)


def test_half_precision_is_of_the_computation_and_not_of_the_weights() -> None:
    weights, seen = torch.ones(2, 2, requires_grad=True), list[torch.dtype]()

    def step(_: int) -> torch.Tensor:
        product = torch.ones(1, 2) @ weights
        seen.append(product.dtype)
        return product.float().sum()

    for precision in ("bf16", "fp32"):
        train([weights], step, count, schedule=replace(PLAIN, rate=2**-10, precision=precision))
    assert seen == [torch.bfloat16, torch.float32]
    assert weights.tolist() == [[1 - 2**-9] * 2] * 2  # bfloat16 would have kept 1


def test_a_sampler_decides_the_rows_of_an_epoch() -> None:
    seen, value = list[int](), zeros(1)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        seen.extend(rows.tolist())
        return value.sum()

    schedule = Schedule(epochs=2, batch_size=3)
    train([value], loss, Rows(4, lambda _rows, _draw: torch.tensor([3, 3, 0, 1])), schedule=schedule)
    assert seen == [3, 3, 0, 1, 3, 3, 0, 1]
    with pytest.raises(ValueError, match="the sampler drew 2 rows for an epoch of 4"):
        train([value], loss, Rows(4, lambda _rows, _draw: torch.tensor([3, 0])), schedule=schedule)


def test_progress_is_by_epochs_of_rows_and_by_steps_where_they_are_given() -> None:
    events: list[ProgressEvent] = []
    trained(Schedule(epochs=2, batch_size=16), report=events.append)
    trained(Schedule(steps=2, batch_size=16), report=events.append)
    assert events == [ProgressEvent("train", n, 2, unit) for unit in ("epochs", "steps") for n in (1, 2)]


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_stops_training_before_it_reaches_the_weights(value: float) -> None:
    weights = torch.ones(1, requires_grad=True)
    losses = [1.0, value]
    with pytest.raises(ArithmeticError, match=f"the loss is {value} in step 2 of 3; lower the rate \\(1\\)"):
        train([weights], lambda step: weights.sum() + losses[step], count, schedule=replace(PLAIN, steps=3))
    assert weights.item() == 0.0


@pytest.mark.parametrize(
    "fault",
    [
        {"epochs": 0}, {"batch_size": 0}, {"rate": 0.0}, {"rate": math.nan}, {"steps": 0}, {"every": 0}, {"clip": 0.0},
        {"accumulate": 0},
    ],
)  # fmt: skip
def test_schedules_that_cannot_train_are_refused(fault: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot train"):
        Schedule(**fault)


def test_training_on_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to train on"):
        Rows(0)


def test_a_stream_needs_steps_and_batches_for_all_of_them() -> None:
    value = zeros(1)
    with pytest.raises(ValueError, match="a stream of batches has no epochs; give the schedule its steps"):
        train([value], lambda _: value.sum(), count, schedule=Schedule())
    with pytest.raises(ValueError, match="the batches end after 2 of 3 steps; ask for fewer steps"):
        train([value], lambda _: value.sum(), lambda first: iter(range(first, 5)),
              schedule=replace(PLAIN, steps=3, accumulate=2))  # fmt: skip

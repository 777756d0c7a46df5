"""The one training loop, counted in steps: for heads on rows in memory, and for whole models on a stream of batches.

    step k:  loss = mean of step(batch) over `accumulate` batches;  backward;  clip;  optimiser at rate(k);  after(...)

A round is one epoch of rows, or `schedule.every` steps of a schedule counted in steps. With validation data the best
round is kept, otherwise the last: the loop never sees test rows, so it cannot choose by them. A killed run that resumes
from its checkpoint ends with the same weights as an uninterrupted run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Literal, TypeVar

import torch

from rag_clip.display import counted
from rag_clip.progress import ProgressEvent, Report, silent
from rag_clip.training.checkpoint import Checkpoint, Run, read_run, write_run

Batch = TypeVar("Batch")
Stream = Callable[[int], Iterator[Batch]]  # all batches from the given number on, counted from 0
Sampler = Callable[[int, torch.Generator], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of data in memory: an epoch is all `count` rows, shuffled, or `count` rows in the order of `sampler`.

    `sampler` gets the count and a generator, and returns rows int64 [count]. Raises ValueError for no rows.
    """

    count: int
    sampler: Sampler | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("there is nothing to train on; give at least one row")


@dataclass(frozen=True, slots=True)
class Schedule:
    """How to train: the optimiser, its learning rate at each step, and how a step is computed.

    epochs, steps: the length, in epochs of rows in memory, or in steps if `steps` is given (required for a stream).
    batch_size: rows per batch; a stream defines its own batches.
    rate, decay: the highest learning rate, and whether it decays to zero (cosine, per step) or stays constant.
    warm_up, warm_up_rate: number of warm-up epochs (steps, if the length is in steps) and their constant rate; with
        None, the rate rises linearly, to (k + 1) / warm_up of the highest at step k.
    optimiser, betas, epsilon, momentum: AdamW with betas and epsilon, or SGD with momentum.
    weight_decay, decayed: on all tensors, or only on those with two or more axes ("matrices").
    clip: maximum norm of all gradients together; larger gradients are scaled down.
    accumulate: batches per step. Their gradients are averaged, weighted by rows where batches are tensors. So a loss
        that is a mean over rows has the gradient of one large batch; a contrastive loss does not.
    precision: "bf16" runs `step` under autocast to bfloat16; the parameters keep their dtype.
    every: steps per round, if the length is in steps.
    seed: of the order of rows.

    Raises ValueError for numbers that are not above zero.
    """

    epochs: int = 20
    batch_size: int = 256
    rate: float = 1e-3
    optimiser: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 0.01
    momentum: float = 0.9
    epsilon: float = 1e-8
    decay: Literal["cosine", "constant"] = "cosine"
    warm_up: int = 0
    warm_up_rate: float | None = 1e-5
    seed: int = 0
    steps: int | None = None
    every: int = 100
    betas: tuple[float, float] = (0.9, 0.999)
    decayed: Literal["all", "matrices"] = "all"
    clip: float | None = None
    accumulate: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not self.rate > 0:
            raise ValueError(
                f"cannot train {self.epochs} epochs of batches of {self.batch_size} at rate {self.rate}; "
                "each must be above zero"
            )
        numbers = {"steps": self.steps, "every": self.every, "clip": self.clip, "accumulate": self.accumulate}
        for name, number in numbers.items():
            if number is not None and not number > 0:
                raise ValueError(f"cannot train with {name} {number}; it must be above zero")


@dataclass(frozen=True, slots=True)
class Step:
    """A finished step: its number from 1, the total number of steps, the loss before the update, and the rate."""

    number: int
    total: int
    loss: float
    rate: float


@dataclass(frozen=True, slots=True)
class History:
    """Mean loss and validation score of each round (no scores without validation), and the round kept, from 1."""

    losses: tuple[float, ...]
    scores: tuple[float, ...]
    kept: int


def train(
    parameters: Sequence[torch.Tensor],
    step: Callable[[Batch], torch.Tensor],
    batches: Rows | Stream[Batch],
    *,
    schedule: Schedule,
    checkpoint: Checkpoint | None = None,
    validate: Callable[[], float] | None = None,
    after: Callable[[Step], None] | None = None,
    report: Report = silent,
) -> History:
    """Train `parameters` in place, and leave the values of the best round in them.

    parameters: the tensors to train, and others that training changes (batch norm statistics, running means), which
        need no gradient; all are saved in the checkpoint and with the best round.
    step: returns the mean loss of a batch, a scalar; for `Rows` a batch is the rows, int64 [b].
    batches: rows in memory, or a stream; `stream(first)` yields batch number `first` and all after it.
    schedule: length, optimiser and learning rate.
    checkpoint: where the run is saved; an existing checkpoint is resumed.
    validate: returns a score after each round, higher is better; of equal rounds the first is kept.
    after: callback after each update, for example for a running mean of the weights, a constraint or a log.
    report: receives progress events.

    Randomness comes from `schedule.seed` and torch's generators only, which a checkpoint restores. Raises
    ArithmeticError, before the update, where the loss is not finite; ValueError for a stream without `steps` or that
    ends early, and for the checkpoint of another run.
    """
    unit = _steps_per_epoch(batches, schedule) if schedule.steps is None else 1
    total, length = (schedule.steps, schedule.every) if schedule.steps else (schedule.epochs * unit, unit)
    trained = [value for value in parameters if value.requires_grad]
    optimiser = _optimiser(trained, schedule)
    run, asked = Run(), {**asdict(schedule), "steps": total}
    if checkpoint is not None:
        run = read_run(checkpoint, asked, parameters, optimiser) or run
    drawn = _steps(batches, schedule, run.step)
    while run.step < total:
        parts = next(drawn, [])
        if not parts:
            raise ValueError(f"the batches end after {run.step} of {counted(total, 'step')}; ask for fewer steps")
        rate = rate_at(schedule, run.step, total=total, unit=unit)
        weights = [len(part) if isinstance(part, torch.Tensor) else 1 for part in parts]
        try:
            loss = _backward(trained, optimiser, step, parts, weights, schedule)
        except ArithmeticError as error:
            raise ArithmeticError(f"{error} in step {run.step + 1} of {total}; lower the rate ({rate:g})") from None
        _update(trained, optimiser, rate, schedule.clip)
        run.step += 1
        run.loss, run.weight = run.loss + loss * sum(weights), run.weight + sum(weights)
        if after is not None:
            after(Step(run.step, total, loss, rate))
        if run.step % length == 0 or run.step == total:
            _end_round(run, parameters, validate)
        if checkpoint is not None and (run.step % checkpoint.every == 0 or run.step == total):
            write_run(checkpoint, asked, parameters, optimiser, run)
        if schedule.steps is not None:
            report(ProgressEvent("train", run.step, total, "steps"))
        elif run.step % unit == 0:
            report(ProgressEvent("train", run.step // unit, schedule.epochs, "epochs"))
    if run.best:
        with torch.no_grad():
            for value, chosen in zip(parameters, run.best, strict=True):
                value.copy_(chosen)
    return History(tuple(run.losses), tuple(run.scores), run.kept)


def rate_at(schedule: Schedule, step: int, *, total: int, unit: int = 1) -> float:
    """Return the learning rate of a step, counted from 0, out of `total`; the warm-up is `warm_up * unit` steps."""
    first = schedule.warm_up * unit
    if step < first and schedule.warm_up_rate is None:
        return schedule.rate * (step + 1) / first
    if step < first and schedule.warm_up_rate is not None:
        return schedule.warm_up_rate
    if schedule.decay == "constant":
        return schedule.rate
    return schedule.rate * 0.5 * (1 + math.cos(math.pi * (step - first) / (total - first)))


def _steps_per_epoch(batches: Rows | Stream[Batch], schedule: Schedule) -> int:
    if not isinstance(batches, Rows):
        raise ValueError("a stream of batches has no epochs; give the schedule its steps")
    return math.ceil(math.ceil(batches.count / schedule.batch_size) / schedule.accumulate)


def _steps(batches: Rows | Stream[Batch], schedule: Schedule, first: int) -> Iterator[list[Any]]:
    """Yield the batches of each step, starting with step `first`."""
    if isinstance(batches, Rows):
        yield from islice(row_steps(batches, schedule), first, None)
        return
    stream = batches(first * schedule.accumulate)
    while len(parts := list(islice(stream, schedule.accumulate))) == schedule.accumulate:
        yield parts


def row_steps(rows: Rows, schedule: Schedule) -> Iterator[list[torch.Tensor]]:
    """Yield the batches of rows of each step, without end; an epoch of rows ends with a batch that may be smaller."""
    generator = torch.Generator().manual_seed(schedule.seed)
    while True:
        if rows.sampler is None:
            order = torch.randperm(rows.count, generator=generator)
        else:
            order = rows.sampler(rows.count, generator)
        if len(order) != rows.count:
            raise ValueError(
                f"the sampler drew {counted(len(order), 'row')} for an epoch of {rows.count}; it must draw as many"
            )
        parts = torch.split(order, schedule.batch_size)
        for start in range(0, len(parts), schedule.accumulate):
            yield list(parts[start : start + schedule.accumulate])


def _optimiser(trained: Sequence[torch.Tensor], schedule: Schedule) -> torch.optim.Optimizer:
    spared = [value for value in trained if schedule.decayed == "matrices" and value.ndim < 2]
    decayed = [value for value in trained if schedule.decayed == "all" or value.ndim >= 2]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": schedule.weight_decay}] if decayed else []
    groups += [{"params": spared, "weight_decay": 0.0}] if spared else []
    if schedule.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=schedule.rate, momentum=schedule.momentum)
    return torch.optim.AdamW(groups, lr=schedule.rate, betas=schedule.betas, eps=schedule.epsilon)


def _backward(
    trained: Sequence[torch.Tensor],
    optimiser: torch.optim.Optimizer,
    step: Callable[[Any], torch.Tensor],
    parts: Sequence[Any],
    weights: Sequence[int],
    schedule: Schedule,
) -> float:
    """Accumulate the gradients of the batches of a step, and return their mean loss."""
    optimiser.zero_grad(set_to_none=True)
    mean, device = 0.0, trained[0].device.type
    for part, weight in zip(parts, weights, strict=True):
        with torch.enable_grad(), torch.autocast(device, torch.bfloat16, enabled=schedule.precision == "bf16"):
            loss = step(part)
        share, value = weight / sum(weights), float(loss.detach())
        if not math.isfinite(value):
            raise ArithmeticError(f"the loss is {value}")
        # Each loss is a mean over its batch; scaled by its share of rows, the sum is the mean over the step.
        torch.autograd.backward(loss * share)
        mean += share * value
    return mean


def _update(trained: Sequence[torch.Tensor], optimiser: torch.optim.Optimizer, rate: float, clip: float | None) -> None:
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(trained, clip)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()


@torch.no_grad()
def _end_round(run: Run, parameters: Sequence[torch.Tensor], validate: Callable[[], float] | None) -> None:
    run.losses.append(run.loss / run.weight)
    run.loss, run.weight = 0.0, 0
    if validate is None:
        run.kept = len(run.losses)
        return
    best = run.scores[run.kept - 1] if run.kept else -math.inf
    run.scores.append(validate())
    if run.scores[-1] > best:
        run.kept, run.best = len(run.losses), [value.detach().clone() for value in parameters]

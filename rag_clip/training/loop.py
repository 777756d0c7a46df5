"""The one training loop: for the keys of Tip-Adapter-F, learned prompts, adapters and linear probes.

Rows are drawn without replacement in each epoch, or by a sampler of the method's own; the rate goes down by a cosine
over all steps, or stays. Which epoch is kept is decided on validation rows, or else it is the last: a training loop
that never sees test rows cannot choose by them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from rag_clip.progress import Progress, Report, silent

Sampler = Callable[[int, torch.Generator], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How to train: AdamW or SGD, epochs of batches, a cosine per step to zero or a constant rate.

    The first `warm_up` epochs run at `warm_up_rate`. Raises ValueError for numbers that cannot train.
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
    warm_up_rate: float = 1e-5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not self.rate > 0:
            raise ValueError(
                f"cannot train {self.epochs} epochs of batches of {self.batch_size} at rate {self.rate}; "
                "each must be above zero"
            )


@dataclass(frozen=True, slots=True)
class History:
    """The mean loss and the validation score of each epoch (none without validation), and the epoch kept, from 1."""

    losses: tuple[float, ...]
    scores: tuple[float, ...]
    kept: int


def fit(
    parameters: Sequence[torch.Tensor],
    loss: Callable[[torch.Tensor], torch.Tensor],
    *,
    rows: int,
    schedule: Schedule,
    sampler: Sampler | None = None,
    validate: Callable[[], float] | None = None,
    report: Report = silent,
) -> History:
    """Train `parameters` in place on `loss(rows int64 [b]) -> scalar`, and leave the best epoch's values in them.

    `sampler(rows, generator)` returns the rows of an epoch in their order, by default all of them shuffled.
    `validate` scores the parameters after each epoch, higher is better; the first best epoch is kept. Draws follow
    `schedule.seed` alone. Raises ValueError for no rows, and ArithmeticError where the loss stops being finite.
    """
    if rows < 1:
        raise ValueError("there is nothing to train on; give at least one row")
    optimiser = _optimiser(parameters, schedule)
    generator = torch.Generator().manual_seed(schedule.seed)
    order = sampler or (lambda count, draw: torch.randperm(count, generator=draw))
    losses: list[float] = []
    scores: list[float] = []
    best = [value.detach().clone() for value in parameters]
    for epoch in range(schedule.epochs):
        batches = list(torch.split(order(rows, generator), schedule.batch_size))
        losses.append(_train_epoch(optimiser, loss, batches, _rates(schedule, epoch, len(batches)), epoch))
        if validate is not None:
            with torch.no_grad():
                scores.append(validate())
        if validate is None or scores[-1] > max(scores[:-1], default=-math.inf):
            kept, best = epoch + 1, [value.detach().clone() for value in parameters]
        report(Progress("train", epoch + 1, schedule.epochs, "epochs"))
    with torch.no_grad():
        for value, chosen in zip(parameters, best, strict=True):
            value.copy_(chosen)
    return History(tuple(losses), tuple(scores), kept)


def _optimiser(parameters: Sequence[torch.Tensor], schedule: Schedule) -> torch.optim.Optimizer:
    if schedule.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, lr=schedule.rate, momentum=schedule.momentum, weight_decay=schedule.weight_decay
        )
    return torch.optim.AdamW(parameters, lr=schedule.rate, eps=schedule.epsilon, weight_decay=schedule.weight_decay)


def _rates(schedule: Schedule, epoch: int, steps: int) -> Iterator[float]:
    for step in range(steps):
        if epoch < schedule.warm_up:
            yield schedule.warm_up_rate
        elif schedule.decay == "constant":
            yield schedule.rate
        else:
            done = (epoch - schedule.warm_up) * steps + step
            yield schedule.rate * 0.5 * (1 + math.cos(math.pi * done / ((schedule.epochs - schedule.warm_up) * steps)))


def _train_epoch(
    optimiser: torch.optim.Optimizer,
    loss: Callable[[torch.Tensor], torch.Tensor],
    batches: Sequence[torch.Tensor],
    rates: Iterator[float],
    epoch: int,
) -> float:
    total = 0.0
    for batch, rate in zip(batches, rates, strict=True):
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad(set_to_none=True)
        with torch.enable_grad():
            value = loss(batch)
            torch.autograd.backward(value)
        optimiser.step()
        total += float(value.detach()) * len(batch)
        if not math.isfinite(total):
            raise ArithmeticError(f"the loss is {total} in epoch {epoch + 1}; lower the rate ({rate:g})")
    return total / sum(map(len, batches))

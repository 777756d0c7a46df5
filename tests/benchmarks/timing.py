"""Wall and processor seconds of a call, and two calls in turns: what the benchmarks share."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Spent(NamedTuple):
    """Seconds of a call; those of the processor are of all threads, and of child processes that have ended."""

    wall: float
    processor: float


def timed(call: Callable[[], T]) -> tuple[T, Spent]:
    """Return what `call` returns and the seconds it took."""
    wall, processor = time.perf_counter(), _processor()
    found = call()
    return found, Spent(time.perf_counter() - wall, _processor() - processor)


def least(call: Callable[[], T], rounds: int = 1) -> tuple[T, Spent]:
    """Return what `call` returns and the least seconds of some rounds."""
    found, spent = timed(call)
    for _ in range(rounds - 1):
        found, again = timed(call)
        spent = Spent(min(spent.wall, again.wall), min(spent.processor, again.processor))
    return found, spent


def alternate(ours: Callable[[], object], other: Callable[[], object], rounds: int) -> list[tuple[Spent, Spent]]:
    """Time both calls in each round, taking turns in who is first."""
    found = []
    for turn in range(rounds):
        spent = {call: timed(call)[1] for call in ((ours, other) if turn % 2 == 0 else (other, ours))}
        found.append((spent[ours], spent[other]))
    return found


def _processor() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime

"""Seconds per stage and progress events; the library reports, only the command line prints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """One event: `done` of `total` items (total None where it is unknown) of the stage named.

    The stage of a `whole` event spans the run; others pass while it goes on.
    """

    stage: str
    done: int
    total: int | None = None
    unit: str = "rows"
    whole: bool = False


Report = Callable[[Progress], None]


def silent(_event: Progress) -> None:
    """Drop a progress event; the default of every job."""


def counting(stage: str, report: Report, total: int | None = None, *, unit: str = "rows") -> Callable[[int], None]:
    """Return what adds up the items it is told of, and reports the sum each time."""
    done = 0

    def advance(items: int) -> None:
        nonlocal done
        done += items
        report(Progress(stage, done, total, unit))

    return advance


@dataclass(slots=True)
class StageClock:
    """Adds up wall seconds per named stage, and passes counts to `report`.

    Stages that overlap in time may sum to more than the whole.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    report: Report = silent

    def counting(self, stage: str, total: int | None = None, *, unit: str = "rows") -> Callable[[int], None]:
        """Return a callback that adds its argument to a running total and reports it."""
        return counting(stage, self.report, total, unit=unit)

    def timed(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Yield `items`, adding the time that each takes to come to `name`."""
        waiting = iter(items)
        while True:
            with self.stage(name):
                try:
                    item = next(waiting)
                except StopIteration:
                    return
            yield item

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds measured elsewhere, for example in a worker process."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    @property
    def bottleneck(self) -> str:
        """The stage that took longest; empty where nothing was timed."""
        return max(self.seconds, key=lambda name: self.seconds[name], default="")

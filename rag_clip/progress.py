"""Progress events and seconds per stage; the library reports, and only the command line prints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """One progress event: `done` of `total` items of a stage (`total` is None if unknown).

    A `whole` event covers the entire run; other stages come and go within it. `item` is what was finished by it, such
    as the Result of a run that was measured; `note` is shown with it, such as the loss of a step.
    """

    stage: str
    done: int
    total: int | None = None
    unit: str = "rows"
    whole: bool = False
    item: object = None
    note: str = ""


Report = Callable[[ProgressEvent], None]


def silent(_event: ProgressEvent) -> None:
    """Ignore a progress event; the default of every job."""


@dataclass(slots=True)
class Progress:
    """The seconds of each stage by the wall clock, and the callback that hears what was done.

    The sum over stages that overlap may exceed the total time.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    report: Report = silent

    def counting(self, stage: str, total: int | None = None, *, unit: str = "rows") -> Callable[[int], None]:
        """Return a callback that adds its argument to a running total and reports it."""
        done = 0

        def advance(items: int) -> None:
            nonlocal done
            done += items
            self.report(ProgressEvent(stage, done, total, unit))

        return advance

    def timed(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Yield `items`, adding the time spent waiting for each to stage `name`."""
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
        """Add the time spent in the context to stage `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds that were measured elsewhere, for example in a worker process."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    @property
    def bottleneck(self) -> str:
        """The stage that took longest; '' before any was timed."""
        return max(self.seconds, key=lambda name: self.seconds[name], default="")

"""Progress as one line, redrawn on a terminal or in a notebook; elsewhere a new line every few seconds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rag_clip.progress import ProgressEvent

SECONDS_BETWEEN_LINES = 5.0


class ProgressLine:
    """Writes events to standard error if `visible`, and calls `note`, such as a log's writer, with each line."""

    def __init__(self, *, visible: bool = True, note: Callable[[str], object] = lambda _line: None) -> None:
        self._visible, self._note = visible, note
        self._stage, self._start, self._last, self._width = "", 0.0, 0.0, 0
        self._whole: ProgressEvent | None = None
        self._begun = 0.0
        self._later: list[tuple[str, float]] = []

    def plan(self, *stages: tuple[str, float]) -> None:
        """Set the stages of the run with approximate seconds per item, to estimate the time left."""
        self._later = list(stages)

    def report(self, event: ProgressEvent) -> None:
        """Show an event: immediately if the line can be redrawn, else at the end of a stage and every few seconds."""
        now = time.monotonic()
        if event.whole:
            self._whole, self._begun = event, now if self._whole is None else self._begun
            if event.done == 0:
                return
            self._stage = self._stage or event.stage
        elif event.stage != self._stage:
            self.end()
            self._stage, self._start, self._last = event.stage, now, now
            names = [name for name, _ in self._later]
            if event.stage in names:
                del self._later[: names.index(event.stage) + 1]
        finished = event.total is not None and event.done >= event.total
        due = finished or event.whole or now - self._last >= SECONDS_BETWEEN_LINES
        line = self._describe(event, now)
        if due:
            self._last = now
            self._note(line)
        if self._visible and can_redraw():
            self.draw(line)
        elif self._visible and due:
            sys.stderr.write(f"{line}\n")
        if finished:
            self.end()

    def draw(self, line: str) -> None:
        """Replace the line that was drawn last."""
        line = line[: _columns() - 1]  # of a wrapped line, only the last row would be erased
        blank = "\x1b[K" if sys.stderr.isatty() else ""  # notebooks ignore this code, so spaces cover a longer line
        sys.stderr.write(f"\r{blank}{line}{'' if blank else ' ' * (self._width - len(line))}")
        sys.stderr.flush()
        self._width = len(line)

    def end(self) -> None:
        """Keep the line that was drawn last; the next event begins a new line and a new stage."""
        if self._width:
            sys.stderr.write("\n")
        self._stage, self._width = "", 0

    def _describe(self, event: ProgressEvent, now: float) -> str:
        spent = max(now - (self._begun if event.whole else self._start), 1e-9)
        rate = event.done / spent
        of = "" if event.total is None else f" of {event.total}"
        left = ""
        if event.total is not None and event.done:
            seconds = (event.total - event.done) / rate
            left = f", {_spell(seconds)} left" if event.done < event.total else f", in {_spell(spent)}"
            left += self._to_the_end(event, seconds, 1 / rate, now)
        figures = f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
        speed = f", {figures} {event.unit}/s" if spent > 0.5 and event.done and not event.whole else ""
        speed = "" if event.unit == "seconds" else speed
        note = f", {event.note}" if event.note else ""
        return f"{event.stage}: {event.done}{of} {event.unit}{speed}{note}{left}"

    def _to_the_end(self, event: ProgressEvent, left: float, each: float, now: float) -> str:
        """Return the estimated time to the end of the run, from later stages or from the runs not yet finished."""
        whole = self._whole
        if event.whole or event.total is None:
            return ""
        if whole and whole.total and whole.done and whole.done < whole.total:
            rest = (now - self._begun) / whole.done * (whole.total - whole.done)
            return f"; {whole.done} of {whole.total} {whole.unit}, about {_spell(rest)} to the end"
        if self._later:
            after = sum(each if name == event.stage else cost for name, cost in self._later)
            return f"; about {_spell(left + event.total * after)} to the end"
        return ""


def _columns() -> int:
    """Return the width of the terminal in characters; sys.maxsize without a terminal."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or sys.maxsize
    except (OSError, ValueError, AttributeError):
        return sys.maxsize


def can_redraw() -> bool:
    """Return whether standard error is a terminal or the output of a notebook's cell."""
    stream = sys.stderr
    return stream is not None and (stream.isatty() or type(stream).__module__.startswith("ipykernel"))


class OnScreen:
    """A report that draws progress on a terminal or in a notebook, and nothing elsewhere: the default of every job."""

    def __init__(self) -> None:
        self._line, self._jobs = ProgressLine(), 0

    def __call__(self, event: ProgressEvent) -> None:
        """Draw an event on a terminal or in a notebook."""
        if can_redraw():
            self._line.report(event)

    def __repr__(self) -> str:
        return "on_screen"

    @contextmanager
    def job(self) -> Iterator[None]:
        """Begin a new line with the outermost decorated job, and end the line with it."""
        self._jobs += 1
        try:
            yield
        finally:
            self._jobs -= 1
            if not self._jobs:
                self._line.end()
                self._line = ProgressLine()


on_screen = OnScreen()


def _spell(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

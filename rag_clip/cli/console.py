"""What the command line shows: a progress bar on a terminal, plain lines with rate and time left elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from types import TracebackType

from rich.console import Console as RichConsole
from rich.table import Table

from rag_clip.cli.log import Log
from rag_clip.progress import Progress

SECONDS_BETWEEN_LINES = 5.0


class Console:
    """Progress goes to standard error, results to standard output, each if wanted, and all to a log if there is one."""

    def __init__(self, *, results: bool = True, progress: bool = True, log: Log | None = None) -> None:
        self._results, self._progress, self._log = results, progress, log
        self._out = RichConsole(highlight=False, soft_wrap=True, markup=False, emoji=False)
        self._err = RichConsole(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
        self._stage, self._start, self._last = "", 0.0, 0.0
        self._whole: Progress | None = None
        self._begun = 0.0
        self._later: list[tuple[str, float]] = []

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_line()

    def plan(self, *stages: tuple[str, float]) -> None:
        """Take the stages of the run, each with about the seconds per item, to say the time left to its end."""
        self._later = list(stages)

    def report(self, event: Progress) -> None:
        """Show an event: at once on a terminal, elsewhere at the end of a stage and every few seconds."""
        now = time.monotonic()
        if event.whole:
            self._whole, self._begun = event, now if self._whole is None else self._begun
            if event.done == 0:
                return
            self._stage = self._stage or event.stage
        elif event.stage != self._stage:
            self._end_line()
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
        if self._progress and sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
        elif self._progress and due:
            self._err.print(line)
        if finished:
            self._end_line()

    @contextmanager
    def loading(self, what: str) -> Iterator[None]:
        """Say what is loaded, such as a model: at once on a terminal, and in how many seconds once it is there."""
        self._end_line()
        start, line = time.monotonic(), f"loading {what}"
        on_terminal = self._progress and sys.stderr.isatty()
        if on_terminal:
            sys.stderr.write(f"{line} ...")
            sys.stderr.flush()
        try:
            yield
        finally:
            if on_terminal:
                sys.stderr.write("\r\x1b[K")
        line = f"{line}: {time.monotonic() - start:.1f} s"
        self._note(line)
        if self._progress:
            self._err.print(line)

    def say(self, line: str) -> None:
        """Print a line of the result."""
        self._note(line)
        if self._results:
            self._end_line()
            self._out.print(line)

    def fail(self, line: str) -> None:
        """Print what went wrong."""
        self._note(line)
        sys.stderr.write(f"{line}\n")

    def _note(self, text: str) -> None:
        if self._log:
            self._log.write(text)

    def stages(self, seconds: Mapping[str, float]) -> None:
        """Print the seconds of each stage, and which took longest."""
        spent = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
        self.say(f"{spent}; bottleneck: {max(seconds, key=lambda name: seconds[name], default='none')}")

    def table(self, corner: str, cells: Mapping[str, Mapping[str, str]]) -> None:
        """Print rows of formatted cells."""
        table = Table(corner, box=None, pad_edge=False)
        for head in next(iter(cells.values())):
            table.add_column(head, justify="right")
        for name, row in cells.items():
            table.add_row(name, *row.values())
        plain = RichConsole(file=StringIO(), width=self._out.width, soft_wrap=True, markup=False, emoji=False)
        with plain.capture() as drawn:
            plain.print(table)
        self.say(drawn.get().removesuffix("\n"))

    def _describe(self, event: Progress, now: float) -> str:
        spent = max(now - (self._begun if event.whole else self._start), 1e-9)
        rate = event.done / spent
        of = "" if event.total is None else f" of {event.total}"
        left = ""
        if event.total is not None and event.done:
            seconds = (event.total - event.done) / rate
            left = f", {_spell(seconds)} left" if event.done < event.total else f", in {_spell(spent)}"
            left += self._to_the_end(event, seconds, 1 / rate, now)
        speed = f", {rate:.0f} {event.unit}/s" if spent > 0.5 and event.done and not event.whole else ""
        speed = "" if event.unit == "seconds" else speed
        return f"{event.stage}: {event.done}{of} {event.unit}{speed}{left}"

    def _to_the_end(self, event: Progress, left: float, each: float, now: float) -> str:
        """Say the seconds to the end of the run: of what follows this stage, or of the runs that are not finished."""
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

    def _end_line(self) -> None:
        if self._stage and self._progress and sys.stderr.isatty():
            sys.stderr.write("\n")
        self._stage = ""


def _spell(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

"""The output of the command line: a progress line on a terminal; elsewhere plain lines with rate and time left."""

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
from rag_clip.cli.metrics import Metrics
from rag_clip.progress import ProgressEvent
from rag_clip.progress_line import ProgressLine


class Console:
    """Writes `progress` to standard error and `results` to standard output, unless switched off, and all to a `log`."""

    def __init__(
        self,
        *,
        results: bool = True,
        progress: bool = True,
        log: Log | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._results, self._progress, self._log, self._metrics = results, progress, log, metrics
        self._out = RichConsole(highlight=False, soft_wrap=True, markup=False, emoji=False)
        self._err = RichConsole(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
        self._line = ProgressLine(visible=progress, note=self._note)

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.end()

    def plan(self, *stages: tuple[str, float]) -> None:
        """Set the stages of the run with approximate seconds per item, to estimate the time left."""
        self._line.plan(*stages)

    def report(self, event: ProgressEvent) -> None:
        """Show an event: immediately on a terminal; elsewhere at the end of a stage and every few seconds."""
        self._line.report(event)
        if self._metrics:
            self._metrics.report(event)

    @contextmanager
    def loading(self, what: str) -> Iterator[None]:
        """Print what is being loaded, such as a model, and the seconds it took."""
        self._line.end()
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
            self._line.end()
            self._out.print(line)

    def fail(self, line: str) -> None:
        """Print an error message to standard error."""
        self._note(line)
        sys.stderr.write(f"{line}\n")

    def _note(self, text: str) -> None:
        if self._log:
            self._log.write(text)

    def stages(self, seconds: Mapping[str, float]) -> None:
        """Print the seconds of each stage, and the stage that took longest."""
        spent = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
        self.say(f"{spent}; bottleneck: {max(seconds, key=lambda name: seconds[name], default='none')}")

    def table(self, corner: str, cells: Mapping[str, Mapping[str, str]]) -> None:
        """Print a table of formatted cells, by row and column; `corner` is the title of the first column."""
        table = Table(corner, box=None, pad_edge=False)
        for head in next(iter(cells.values())):
            table.add_column(head, justify="right")
        for name, row in cells.items():
            table.add_row(name, *row.values())
        plain = RichConsole(file=StringIO(), width=self._out.width, soft_wrap=True, markup=False, emoji=False)
        with plain.capture() as drawn:
            plain.print(table)
        self.say(drawn.get().removesuffix("\n"))

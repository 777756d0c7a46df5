"""Progress where nobody asked for it: drawn on a terminal and in a notebook, and nowhere else."""

from __future__ import annotations

import os
import struct
import sys
from contextlib import redirect_stderr
from inspect import isfunction, signature
from io import StringIO
from pathlib import Path

import pytest

import rag_clip
from rag_clip.pipelines.running import Running
from rag_clip.progress import ProgressEvent, Report
from rag_clip.progress_line import OnScreen, on_screen


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


class Notebook(StringIO):
    """Standard error of a cell: told by the module of its class, as ipykernel is not installed here."""


Notebook.__module__ = "ipykernel.iostream"


def drawn(stream: StringIO, *events: ProgressEvent) -> str:
    screen = OnScreen()
    with redirect_stderr(stream), screen.job():
        for event in events:
            screen(event)
    return stream.getvalue()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_a_line_is_cut_where_the_terminal_ends() -> None:
    import fcntl
    import pty
    import termios

    end, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 10, 0, 0))

    class Narrow(Terminal):
        def fileno(self) -> int:
            return terminal

    try:
        assert drawn(Narrow(), ProgressEvent("embed", 12345)) == "\r\x1b[Kembed: 12\n"
    finally:
        os.close(end)
        os.close(terminal)


def test_a_terminal_sees_each_event_and_ends_below_an_unfinished_line() -> None:
    text = drawn(Terminal(), ProgressEvent("embed", 1), ProgressEvent("embed", 20))
    assert text == "\r\x1b[Kembed: 1 rows\r\x1b[Kembed: 20 rows\n"


def test_a_notebook_covers_a_longer_line_with_spaces() -> None:
    text = drawn(Notebook(), ProgressEvent("embed", 100), ProgressEvent("embed", 2))
    assert text == "\rembed: 100 rows\rembed: 2 rows  \n"


def test_nothing_is_drawn_elsewhere() -> None:
    assert drawn(StringIO(), ProgressEvent("embed", 1, 1)) == ""


def test_the_outermost_job_ends_the_line() -> None:
    screen, stream = OnScreen(), Terminal()
    with redirect_stderr(stream), screen.job():
        with screen.job():
            screen(ProgressEvent("embed", 1))
        screen(ProgressEvent("embed", 2))
    assert stream.getvalue() == "\r\x1b[Kembed: 1 rows\r\x1b[Kembed: 2 rows\n"


@pytest.mark.parametrize(
    ("stream", "report", "seen"),
    [(Terminal, on_screen, True), (Terminal, rag_clip.silent, False), (StringIO, on_screen, False)],
)
def test_a_job_shows_its_progress_on_a_terminal_unless_it_is_silenced(
    stream: type[StringIO], report: Report, seen: bool, tmp_path: Path
) -> None:
    (tmp_path / "captions.txt").write_text("a red bird\na green bird\n")
    with redirect_stderr(stream()) as errors:
        rag_clip.build_index(
            tmp_path / "captions.txt", index=tmp_path / "index", encoder="demo", running=Running(report=report)
        )
    text = errors.getvalue()
    assert ("embed: 2" in text, text.endswith("\n")) == (seen, seen)


def test_jobs_show_their_progress_by_default() -> None:
    parameters = [signature(job).parameters for job in map(rag_clip.__getattr__, rag_clip.__all__) if isfunction(job)]
    defaults = [each[name].default for each in parameters for name in ("report", "running") if name in each]
    assert (set(defaults), len(defaults)) == ({on_screen, rag_clip.Running(report=on_screen)}, 23)

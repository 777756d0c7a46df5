"""Run a command line as a user does, and see what it printed and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

from rag_clip.cli import app


@dataclass(frozen=True)
class Outcome:
    """What a command printed and how it ended."""

    code: int
    out: str
    errors: str


@pytest.fixture(scope="session")
def rag_clip() -> Callable[..., Outcome]:
    """Return a function that runs `rag-clip` with arguments, in this process, in `folder`."""

    def run(*arguments: object, folder: Path) -> Outcome:
        with chdir(folder), redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as errors:
            try:
                code = app(list(map(str, arguments)), result_action="return_value")
            except SystemExit as end:
                code = end.code
        return Outcome(int(code or 0), out.getvalue(), errors.getvalue())

    return run

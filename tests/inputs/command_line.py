"""Command lines run in this process."""

from __future__ import annotations

from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from rag_clip.cli import app


class Outcome(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    errors: str


def run(*arguments: object, folder: Path) -> Outcome:
    """Run `rag-clip` with these arguments in `folder`."""
    with chdir(folder), redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as errors:
        try:
            code = app(list(map(str, arguments)), result_action="return_value")
        except SystemExit as end:
            code = end.code
    return Outcome(int(code or 0), out.getvalue(), errors.getvalue())

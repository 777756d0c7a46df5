"""The entry point of `rag-clip` and `python -m rag_clip`; Ctrl-C prints one sentence, also while modules load."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130


def main() -> None:
    """Run the command line; the exit code is the verb's."""
    signal.signal(signal.SIGINT, _stop)
    _fill_closed_streams()
    for stream in (sys.stdout, sys.stderr):  # prints the code of a character that the terminal cannot show
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    from rag_clip.cli import main as run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _fill_closed_streams() -> None:
    """Open the null device for closed standard streams; otherwise a file opened later would receive their output."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _stop(_number: int, _frame: FrameType | None) -> None:
    """Exit immediately; an extension module that is loading would turn KeyboardInterrupt into another exception."""
    sys.stderr.write("interrupted before anything was done\n")
    sys.stderr.flush()
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()

"""Server processes to test against: started, killed and started again over one folder, on one port.

What runs in them is qdrant_stand_in.py, which says what it is and what it is not.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("qdrant_stand_in.py")


class Nursery:
    """A process that has imported what a server needs, and forks one in milliseconds each time it is asked."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._asking = threading.Lock()
        atexit.register(self._end)

    def ask(self, *question: object) -> list[Any]:
        """Start a server (its process and port), or tell how one ended (its exit code, or None while it runs)."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._asking:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def _end(self) -> None:
        with self._process:
            self._process.kill()


nursery = functools.cache(Nursery)


class QdrantProcess:
    """Starts, kills and starts again a server over one folder, on one port; safe to call from any thread."""

    def __init__(self, folder: Path, *, key: str = "", version: str = "1.20.0") -> None:
        self.key = key
        self.version = version
        self.starts = 0
        self._folder = folder
        self._port = 0
        self._process: int | None = None
        self._starting = threading.Lock()

    @property
    def location(self) -> str:
        """The address as our tools take it: gRPC is on the port after the one named."""
        return f"http://127.0.0.1:{self._port - 1}"

    def start(self, *, dies_at: str = "", together: int = 1) -> QdrantProcess:
        """Start the server if it does not run, and return when it listens.

        With `dies_at`, METHOD:N, it kills itself, as kill -9 would, in the N-th call of a method: half of the points
        of an Upsert are on disk by then, any other call is carried out, and nobody has been told. With `together`, an
        Upsert is answered only when so many of them are there at once.
        """
        with self._starting:
            if self._process is None or nursery().ask("ended", self._process) != [None]:
                self._process = None
                facts = (str(self._folder), self._port, self.key, self.version, dies_at, together)
                self._process, self._port = nursery().ask("start", *facts)
                self.starts += 1
        return self

    def wait(self) -> int:
        """Wait until the server has died, a minute at most, and return its exit code."""
        assert self._process is not None
        for _ in range(1200):
            [code] = nursery().ask("ended", self._process)
            if code is not None:
                self._process = None
                return code
            time.sleep(0.05)
        raise TimeoutError("the server is still alive")

    def kill(self) -> None:
        """Kill -9; a server that is dead stays so."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process, signal.SIGKILL)
            self.wait()

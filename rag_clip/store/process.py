"""The caller's side of worker.py: starts the process, sends requests, and always ends it."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from rag_clip.store.interface import StoreError

HEARTBEAT_SECONDS = 0.5
CLOSING_SECONDS = 5.0
_WORKER = Path(__file__).with_name("worker.py")
_GONE = object()


class EngineProcess:
    """One worker process, which answers requests in order; any thread may send them.

    Ctrl-C interrupts the waiting, not the worker; the answer is then lost, so only `close` can follow. `close` kills a
    worker that does not end within a few seconds. A worker interrupted in a long operation (one with `waiting`) is
    killed at once. The engine's log makes that safe.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests = self._process.stdin
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._asking = threading.Lock()
        self._interrupted = False
        reader = threading.Thread(target=_read, args=(self._process.stdout, self._answers), daemon=True)
        reader.start()
        self._end = weakref.finalize(self, _end, self._process, reader, os.getpid())

    @property
    def alive(self) -> bool:
        """Whether requests can still be sent."""
        return self._end.alive

    def ask(
        self,
        operation: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        waiting: Callable[[float], None] | None = None,
    ) -> Any:
        """Return the worker's answer; the callback `waiting` gets the elapsed seconds, twice a second.

        Raises StoreError where the worker refuses or has died.
        """
        with self._asking:
            if self._interrupted or not self.alive:
                raise StoreError("the index was closed or interrupted; open it again")
            try:
                done, answer = self._exchange(operation, dict(arguments or {}), waiting)
            except BaseException:
                self._interrupted = True
                if waiting is not None:
                    self._process.kill()
                raise
        if not done:
            raise StoreError(f"the engine refused to {operation}: {answer}")
        return answer

    def close(self) -> None:
        """End the worker; raises StoreError where it could not flush everything."""
        if not self.alive:
            return
        try:
            if not self._interrupted:
                self.ask("close")
        finally:
            self._end()

    def _exchange(
        self, operation: str, arguments: dict[str, Any], waiting: Callable[[float], None] | None
    ) -> tuple[bool, Any]:
        started = time.monotonic()
        try:
            pickle.dump((operation, arguments), self._requests, protocol=pickle.HIGHEST_PROTOCOL)
            self._requests.flush()
        except OSError:
            raise self._died(operation) from None
        while True:
            try:
                answer = self._answers.get(timeout=HEARTBEAT_SECONDS)
            except queue.Empty:
                if waiting is not None:
                    waiting(time.monotonic() - started)
                continue
            if answer is _GONE:
                raise self._died(operation)
            return answer  # type: ignore[no-any-return]

    def _died(self, operation: str) -> StoreError:
        status = self._process.wait()
        how = f"status {status}" if status >= 0 else f"{signal.strsignal(-status)}, signal {-status}"
        return StoreError(
            f"the engine's process ended during {operation} ({how}); what was written before is safe. Is the disk or "
            "the memory full? Make room and open the index again"
        )


def _read(stream: IO[bytes], answers: queue.SimpleQueue[Any]) -> None:
    with stream, contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
        while True:
            answers.put(pickle.load(stream))
    answers.put(_GONE)


def _end(process: subprocess.Popen[bytes], reader: threading.Thread, owner: int) -> None:
    if os.getpid() != owner:  # a forked copy of the caller; the worker is not its child
        return
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(CLOSING_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    reader.join(CLOSING_SECONDS)

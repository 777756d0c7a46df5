"""All GPUs of a machine: one process for each device, which does whole shards with the model that it keeps.

Pixels never leave the process that decodes and encodes them; the decoders are divided among the processes.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rag_clip.errors import RagClipError
from rag_clip.images.decoding import receive, send
from rag_clip.models.portable import portable
from rag_clip.protocols import Encoder

_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from rag_clip.pipelines.devices import serve; serve()"


class WorkerError(RagClipError):
    """A process or an actor with a model has ended; the message says which, and what to do."""


def choose_devices(given: str | None) -> tuple[str, ...]:
    """Return the devices of `--device`: those between commas, and of "cuda" all GPUs of the machine."""
    names = tuple(name.strip() for name in (given or "").split(",") if name.strip())
    if names != ("cuda",):
        return names
    import torch

    return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count())) or names


class DeviceProcesses:
    """A process for each of the devices, such as ("cuda:0", "cuda:1"); see `protocols.Workers`.

    Processes start when they are first needed, keep their model, and end with this object, or with this process.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        if not devices:
            raise ValueError("there is no device; give at least one, such as cuda:0")
        self._devices = tuple(devices)
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def count(self) -> int:
        """The number of devices."""
        return len(self._devices)

    @property
    def remote(self) -> bool:
        """Never: they are on this machine."""
        return False

    def run(
        self, work: Callable[[Encoder, Any, Any], Any], *, encoder: Encoder, given: Any, units: Sequence[Any]
    ) -> Iterator[Any]:
        """Yield the results of all units; see `Workers.run`.

        Raises WorkerError if a process ends, and the error of a unit. Shards that are finished stay.
        """
        import torch

        first = pickle.dumps((portable(encoder), torch.get_num_threads(), work, given), protocol=5)
        waiting, done = queue.SimpleQueue[Any](), queue.SimpleQueue[Any]()
        for unit in units:
            waiting.put(unit)
        if not self._processes:
            self._processes = [_start(device) for device in self._devices]
            weakref.finalize(self, _stop, self._processes)
        with ThreadPoolExecutor(self.count, thread_name_prefix="device") as threads:
            for process, device in zip(self._processes, self._devices, strict=True):
                threads.submit(_drive, process, device, first, waiting, done)
            try:
                for _ in units:
                    good, result = done.get()
                    if not good:
                        raise result
                    yield result
            except BaseException:
                while not waiting.empty():
                    waiting.get()
                _stop(self._processes)
                self._processes.clear()
                raise


def _drive(
    process: subprocess.Popen[bytes],
    device: str,
    first: bytes,
    waiting: queue.SimpleQueue[Any],
    done: queue.SimpleQueue[Any],
) -> None:
    """Give units to a process until none is left, and put what they give, or an error, into `done`."""
    assert process.stdin
    assert process.stdout
    try:
        send(process.stdin, first)
        while True:
            try:
                unit = waiting.get_nowait()
            except queue.Empty:
                send(process.stdin, pickle.dumps(None))
                return
            send(process.stdin, pickle.dumps((unit,)))
            done.put(pickle.loads(receive(process.stdout)))
    except (OSError, EOFError, ValueError):
        reason = f"the process of {device} ended with exit code {process.wait()}; memory may have run out"
        done.put((False, WorkerError(f"{reason}. Run again with a smaller batch size; finished shards are kept")))


def serve() -> None:
    """Run a process of a device: read jobs, and then their units, from standard input, and answer with results."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of the group; the parent stops this one
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library may print must not mix with the answers
    made_by, encoder = b"", None
    try:
        while True:
            load, threads, work, given = pickle.loads(receive(requests))
            while (unit := pickle.loads(receive(requests))) is not None:
                try:
                    if (by := pickle.dumps(load)) != made_by:
                        import torch

                        torch.set_num_threads(threads)
                        made_by, encoder = by, load(sys.argv[2])
                    answer = (True, work(encoder, given, *unit))
                except Exception as error:
                    answer = (False, _sendable(error))
                send(answers, pickle.dumps(answer, protocol=5))
    except (EOFError, BrokenPipeError):
        return


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return WorkerError(f"{type(error).__name__}: {error}")
    return error


def _start(device: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _BOOT, json.dumps(sys.path), device]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.communicate()

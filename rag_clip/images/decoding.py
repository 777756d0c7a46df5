"""Decode and preprocess images in threads, or, for a preprocess that is not made for them, in processes.

A worker process is a plain interpreter that reads from its standard input. So a script needs no `__main__` guard, no
process is forked while threads of torch run, and a worker ends when its parent does, however that happens.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from rag_clip.errors import RagClipError
from rag_clip.images.items import Item, read_image
from rag_clip.models.decode import REDUCED_SIDE, ImageError, decode_image, least_side_for, runs_in_threads

if TYPE_CHECKING:  # rag_clip.protocols imports torch, which a worker does not load
    from rag_clip.protocols import Preprocess, Workers

Examine = Callable[[bytes, Image.Image], Any]
_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from rag_clip.images.decoding import serve; serve()"


FEW_IMAGES = 512
MOST_WORKERS = 16


@dataclass(frozen=True, slots=True)
class Decoding:
    """How images are decoded and encoded.

    workers: number of images decoded at once beside the encoding, in threads, or in processes for a preprocess that
        is not made for threads; 0 decodes between the batches; None is one per processor, at most 16.
    batch_size: number of images that the encoder gets at once.

    For at most 512 images, None is 0. Features are stored `shard_rows` rows of a file at a time; a run that is killed
    loses the shard that it was at. `elsewhere`, if given, does whole shards: it decodes, encodes and writes them.
    Raises ValueError for settings out of range.
    """

    workers: int | None = None
    batch_size: int = 256
    shard_rows: int = 1024
    elsewhere: Workers | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        least_values = (
            ("batch_size", self.batch_size, 1),
            ("workers", self.workers, 0),
            ("shard_rows", self.shard_rows, 1),
        )
        for name, value, least in least_values:
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")

    def of_worker(self) -> Decoding:
        """Return the settings of one of the workers `elsewhere`, among which the decoders are divided."""
        if self.elsewhere is None:
            return self
        total = self.processes(None)
        return replace(self, workers=max(1, total // self.elsewhere.count) if total else 0, elsewhere=None)

    def processes(self, images: int | None) -> int:
        """Return the number of workers that decode `images` images; `images` is None if unknown."""
        if images == 0:
            return 0
        if self.workers is not None:
            return self.workers
        few = images is not None and images <= FEW_IMAGES
        return 0 if few else min(MOST_WORKERS, os.cpu_count() or 1)


class DecodeError(RagClipError):
    """A decoding process died; the message gives its exit code and what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """Decoded images, of which m are good.

    pixels: of the good images, uint8 [m, height, width, 3]; None if m is 0.
    errors: the error of each image; None for a good one.
    unreadable: whether a file could not be read or memory ran out, errors that may be temporary.
    seconds: the time spent.
    facts: the results of the pool's `examine` for the good images; empty without `examine`.
    """

    pixels: np.ndarray | None
    errors: tuple[str | None, ...]
    unreadable: bool
    seconds: float
    facts: tuple[Any, ...] = ()


def decode_items(items: Sequence[Item], preprocess: Preprocess, examine: Examine | None = None) -> Decoded:
    """Decode images, given as bytes, paths, or an ImageError, which becomes the image's error; no error is raised."""
    start = time.perf_counter()
    # The facts of an image, such as its perceptual hash, do not depend on the encoder.
    least_side = least_side_for(preprocess) if examine is None else REDUCED_SIDE
    pixels: list[np.ndarray] = []
    errors: list[str | None] = []
    facts: list[Any] = []
    unreadable = False
    for item in items:
        try:
            content = read_image(item)
            image = decode_image(content, least_side=least_side)
            examined = [] if examine is None else [examine(content, image)]
            pixels.append(preprocess(image))
            facts += examined
            errors.append(None)
        except OSError as error:
            unreadable = True
            errors.append(f"cannot read {item!r}: {error.strerror}" if error.strerror else str(error))
        except MemoryError:
            unreadable = True
            errors.append("memory ran out while this image was decoded; run again with fewer workers")
        except Exception as error:  # a preprocess may raise any error for an unusual image
            errors.append(str(error) if isinstance(error, ImageError) else f"{type(error).__name__}: {error}")
    stacked = np.stack(pixels) if pixels else None
    return Decoded(stacked, tuple(errors), unreadable, time.perf_counter() - start, tuple(facts))


class DecodePool:
    """A pool of `workers` decoders, to be used as a context manager; with 0, `submit` leaves the work to its result.

    The decoders are threads of this process if the preprocess has a true attribute `threads`, as those of open_clip and
    timm models have, and processes otherwise. `examine`, if given, is called with the bytes of each good image and the
    decoded image, and its result is kept. Processes raise DecodeError if one dies, and TypeError if `preprocess` cannot
    be pickled.
    """

    def __init__(self, preprocess: Preprocess, *, workers: int, examine: Examine | None = None) -> None:
        self.workers = workers
        self._preprocess = preprocess
        self._examine = examine
        self._started = 0 if runs_in_threads(preprocess) else workers
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._processes: list[subprocess.Popen[bytes]] = []
        # One thread per worker decodes, or moves the data of its process both ways, so that a full pipe never blocks
        # the caller.
        self._threads = ThreadPoolExecutor(max(1, workers), thread_name_prefix="decode")

    def __enter__(self) -> DecodePool:
        """Start the processes, if any."""
        first = _pickle_preprocess(self._preprocess, self._examine) if self._started else b""
        try:
            for _ in range(self._started):
                process = _start_worker()
                self._processes.append(process)
                assert process.stdin is not None
                send(process.stdin, first)
                self._idle.put(process)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Kill the processes, and let threads finish what they are at; the rest is lost."""
        for process in self._processes:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.communicate()

    def submit(self, items: Sequence[Item]) -> Callable[[], Decoded]:
        """Start decoding `items`, and return a function that waits for the result."""
        if not self.workers:
            return lambda: decode_items(items, self._preprocess, self._examine)
        future: Future[Decoded] = (
            self._threads.submit(self._ask, items)
            if self._started
            else self._threads.submit(decode_items, items, self._preprocess, self._examine)
        )
        return future.result

    def _ask(self, items: Sequence[Item]) -> Decoded:
        process = self._idle.get()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            send(process.stdin, pickle.dumps(items, protocol=5))
            answer: Decoded = pickle.loads(receive(process.stdout))
        except (OSError, EOFError) as error:
            raise DecodeError(
                f"a decode worker ended with exit code {process.wait()}; an image may have exhausted memory or crashed "
                "the decoder. Run again with workers=0 to see where; finished shards are kept"
            ) from error
        finally:
            self._idle.put(process)
        return answer


def serve() -> None:
    """Run a worker: read preprocess and examine, then lists of items, from standard input; answer with Decoded."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of the group; the parent stops workers
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder may print must not mix with the answers
    try:
        preprocess, examine = pickle.loads(receive(requests))
        while True:
            decoded = decode_items(pickle.loads(receive(requests)), preprocess, examine)
            send(answers, pickle.dumps(decoded, protocol=5))
    except (EOFError, BrokenPipeError):
        return


def _start_worker() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _BOOT, json.dumps(sys.path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _pickle_preprocess(preprocess: Preprocess, examine: Examine | None) -> bytes:
    module = getattr(preprocess, "__module__", "")
    try:
        content = pickle.dumps((preprocess, examine))
    except Exception as error:
        raise TypeError(f"the encoder's preprocess cannot be pickled ({error}); pass workers=0") from error
    if module == "__main__":
        raise TypeError(
            "the encoder's preprocess is defined in the main script; move it to a module, or pass workers=0"
        )
    return content


def send(stream: IO[bytes], message: bytes) -> None:
    """Write a message with its length before it."""
    stream.write(len(message).to_bytes(8, "little"))
    stream.write(message)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes:
    """Read a message of `send`; raises EOFError where the other side has ended."""
    head = stream.read(8)
    size = int.from_bytes(head, "little")
    message = stream.read(size) if len(head) == 8 else b""
    if len(head) < 8 or len(message) < size:
        raise EOFError
    return message

"""The two threads that use the model: one for short calls in turn, one for long jobs in turn, which hold up no call.

A request to classify waits up to `WAIT` seconds for others with the same prompts, and all are encoded at once. Both
threads share the encoder, whose methods change nothing in it, so their calls may run at the same time.
"""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from rag_clip.classifiers.match import Matches, match
from rag_clip.classifiers.zero_shot import ZeroShot, zero_shot
from rag_clip.data import Prompts
from rag_clip.errors import explain
from rag_clip.files.prompts import read_prompts
from rag_clip.given import to_encoder
from rag_clip.pipelines.classify import prompts_digest
from rag_clip.progress import ProgressEvent, Report
from rag_clip.protocols import Encoder

WAIT, MOST_AT_ONCE = 0.01, 64
KEPT_CLASSIFIERS, KEPT_JOBS = 8, 200


@dataclass(slots=True)
class Job:
    """A long call: its state, its last progress, and its result or error."""

    id: str
    verb: str
    state: Literal["waiting", "running", "done", "failed"] = "waiting"
    progress: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def facts(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "id": self.id,
            "verb": self.verb,
            "state": self.state,
            "progress": dict(self.progress),
            "result": dict(self.result),
            "error": self.error,
        }

    def set(self, **values: Any) -> None:
        """Change fields, and wake those who wait for changes."""
        with self.changed:
            for name, value in values.items():
                setattr(self, name, value)
            self.changed.notify_all()

    def events(self, *, every: float = 15.0) -> Iterator[dict[str, Any]]:
        """Yield its facts now, after each change, and at least every so many seconds, until it has ended."""
        while True:
            with self.changed:
                facts = self.facts()
            yield facts
            if facts["state"] in ("done", "failed"):
                return
            with self.changed:
                if self.facts() == facts:
                    self.changed.wait(every)


@dataclass(frozen=True, slots=True)
class _Batchable:
    key: Path
    prompts: Prompts
    pixels: torch.Tensor
    top_k: int
    answer: Future[Any]


class Worker:
    """The threads, their encoder and classifiers.

    model: the name of the model; None for the one that files record.
    """

    def __init__(self, model: str | None = None) -> None:
        self.model = model
        self.jobs: OrderedDict[str, Job] = OrderedDict()
        self.batches = 0
        self._encoders: dict[str, Encoder] = {}
        self._loading = threading.Lock()
        self._classifiers: OrderedDict[tuple[Path, int], ZeroShot] = OrderedDict()
        self._queue: queue.Queue[Any] = queue.Queue()
        self._aside: deque[Any] = deque()
        self._waiting: queue.Queue[Callable[[], None]] = queue.Queue()
        threading.Thread(target=self._work, name="model", daemon=True).start()
        threading.Thread(target=self._work_off, name="jobs", daemon=True).start()

    def encoder(self, recorded: Mapping[str, Any]) -> Encoder:
        """Return the model, loaded once; raises ValueError if no model was named, and none is recorded."""
        name = self.model or str(recorded.get("spec") or "")
        with self._loading:
            if name not in self._encoders:
                self._encoders[name] = to_encoder(self.model, recorded=recorded)
            return self._encoders[name]

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function in the thread of calls, and return what it returns."""
        answer: Future[Any] = Future()
        self._queue.put((function, answer))
        return answer.result()

    def start(self, verb: str, function: Callable[[Report], Mapping[str, Any]]) -> Job:
        """Call a function with a report of its progress in the thread of jobs, and return at once."""
        job = Job(secrets.token_hex(8), verb)
        self.jobs[job.id] = job
        while len(self.jobs) > KEPT_JOBS:
            self.jobs.popitem(last=False)

        def report(event: ProgressEvent) -> None:
            facts = {"stage": event.stage, "done": event.done, "total": event.total, "unit": event.unit}
            job.set(progress=facts)

        def run() -> None:
            job.set(state="running")
            try:
                job.set(state="done", result=dict(function(report)))
            except Exception as error:
                job.set(state="failed", error=explain(error) or f"a bug in rag-clip: {error!r}")

        self._waiting.put(run)
        return job

    def classify(self, path: Path, prompts: Prompts, images: list[bytes], *, top_k: int) -> Matches:
        """Classify decoded images by the prompts of a file, together with the images of other requests.

        Raises ImageError for an image that cannot be decoded.
        """
        encoder = self.encoder(prompts.recorded.encoder)
        pixels = torch.stack(
            [torch.from_numpy(encoder.preprocess(each)).permute(2, 0, 1) for each in _decoded(images, encoder)]
        )
        answer: Future[Matches] = Future()
        self._queue.put(_Batchable(path, prompts, pixels, top_k, answer))
        return answer.result()

    def classifier(self, path: Path, prompts: Prompts) -> ZeroShot:
        """Return the classifier of prompts, kept by their file as it stands; call it in the thread of calls."""
        key = (path, path.stat().st_mtime_ns)
        if key not in self._classifiers:
            self._classifiers[key] = zero_shot(prompts, self.encoder(prompts.recorded.encoder))
            while len(self._classifiers) > KEPT_CLASSIFIERS:
                self._classifiers.popitem(last=False)
        self._classifiers.move_to_end(key)
        return self._classifiers[key]

    def _work_off(self) -> None:
        while True:
            self._waiting.get()()

    def _work(self) -> None:
        while True:
            item = self._aside.popleft() if self._aside else self._queue.get()
            if isinstance(item, _Batchable):
                self._classify(self._gather(item))
            else:
                function, answer = item
                try:
                    answer.set_result(function())
                except BaseException as error:
                    answer.set_exception(error)

    def _gather(self, first: _Batchable) -> list[_Batchable]:
        batch, images, until = [first], len(first.pixels), time.monotonic() + WAIT
        while images < MOST_AT_ONCE and (left := until - time.monotonic()) > 0:
            try:
                item = self._queue.get(timeout=left)
            except queue.Empty:
                break
            if isinstance(item, _Batchable) and (item.key, item.pixels.shape[1:]) == (
                first.key,
                first.pixels.shape[1:],
            ):
                batch.append(item)
                images += len(item.pixels)
            else:
                self._aside.append(item)
        return batch

    def _classify(self, batch: list[_Batchable]) -> None:
        try:
            first = batch[0]
            classifier = self.classifier(first.key, first.prompts)
            encoder = self.encoder(first.prompts.recorded.encoder)
            with torch.no_grad():
                features = encoder.encode_pixels(torch.cat([each.pixels for each in batch]))
                found = match(classifier, features, top_k=max(each.top_k for each in batch))
            self.batches += 1
            start = 0
            for each in batch:
                rows = slice(start, start + len(each.pixels))
                labels, scores = found.labels[rows, : each.top_k], found.scores[rows, : each.top_k]
                each.answer.set_result(Matches(labels.cpu(), scores.cpu(), found.margin[rows].cpu()))
                start += len(each.pixels)
        except BaseException as error:
            for each in batch:
                if not each.answer.done():
                    each.answer.set_exception(error)


def _decoded(images: list[bytes], encoder: Encoder) -> Iterator[Any]:
    from rag_clip.models.decode import decode_image, least_side_for

    for image in images:
        yield decode_image(image, least_side=least_side_for(encoder.preprocess))


class PromptFiles:
    """Prompts by their file, read again when it changes; the last few are kept."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, int], Prompts] = OrderedDict()
        self._digests: dict[tuple[Path, int], str] = {}
        self._lock = threading.Lock()

    def read(self, path: Path) -> Prompts:
        """Read prompts; raises as `read_prompts`."""
        key = (path, path.stat().st_mtime_ns)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = read_prompts(path)
                while len(self._kept) > KEPT_CLASSIFIERS:
                    self._kept.popitem(last=False)
            return self._kept[key]

    def digest(self, path: Path) -> str:
        """Return what predictions record of prompts, computed once for a file as it stands; raises as `read`."""
        key = (path, path.stat().st_mtime_ns)
        if key not in self._digests:
            self._digests[key] = prompts_digest(self.read(path))
        return self._digests[key]

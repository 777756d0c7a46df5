"""Corpora and shards that the tests of both stages share."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rag_clip.captions.shards import ShardFolder
from rag_clip.pipelines.captions import build_index
from rag_clip.pipelines.running import Running
from rag_clip.progress import ProgressEvent
from rag_clip.testing import ToyEncoder


@dataclass(frozen=True, slots=True)
class CountingEncoder(ToyEncoder):
    """Remembers what it was asked to embed."""

    embedded: list[str] = field(default_factory=list)

    def encode_text(self, texts) -> torch.Tensor:
        self.embedded.extend(texts)
        return ToyEncoder.encode_text(self, texts)


@dataclass(frozen=True, slots=True)
class LoggingEncoder(ToyEncoder):
    """Writes what it is asked to embed to a file, a line a caption, before it embeds it."""

    log: str = ""

    def encode_text(self, texts) -> torch.Tensor:
        with Path(self.log).open("a") as file:
            file.write("".join(f"{text}\n" for text in texts))
        return ToyEncoder.encode_text(self, texts)


def build_killed(folder: str, events: int | None, seconds: float, *, alone: bool) -> None:
    """Build an index, and kill -9 this process some seconds after an event, `alone` or with the engine's process.

    With `events` 0 the seconds count from the start; with None it ends by itself.
    """
    os.setsid()
    seen = 0

    def count(_event: ProgressEvent | None) -> None:
        nonlocal seen
        if seen == events:
            end = partial(os.kill, os.getpid()) if alone else partial(os.killpg, 0)
            threading.Timer(seconds, end, [signal.SIGKILL]).start()
        seen += 1

    count(None)
    paths = sorted(Path(folder).glob("*.parquet"))
    encoder = LoggingEncoder(dim=16, log=f"{folder}/embedded.txt")
    build_index(
        paths, index=f"{folder}/index", encoder=encoder, running=Running(report=count), shards=ShardFolder(rows=50)
    )


def write_captions(path: Path, texts: Sequence[str | None], **columns: Any) -> Path:
    pq.write_table(pa.table({"caption": pa.array(texts, pa.string()), **columns}), path)
    return path


def stored(store) -> dict[str, tuple[str, str, tuple[float, ...]]]:
    """Return every caption of an index as id -> (text, source, vector)."""
    rows = [row for batch in store.scroll(vectors=True) for row in batch.to_pylist()]
    return {row["id"]: (row["text"], row["source"], tuple(row["vector"])) for row in rows}

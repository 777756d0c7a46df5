"""Corpora and shards that the tests of both stages share."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rag_clip.pipelines.captions import build_index

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


def build_alone(folder: str) -> None:
    """Build an index in a session of its own, so that it can be killed with the process of the engine."""
    os.setsid()
    paths = sorted(Path(folder).glob("*.parquet"))
    encoder = LoggingEncoder(dim=16, log=f"{folder}/embedded.txt")
    build_index(paths, index=f"{folder}/index", encoder=encoder, shard_rows=50)


def write_captions(path: Path, texts: list[str | None], **columns: object) -> Path:
    pq.write_table(pa.table({"caption": pa.array(texts, pa.string()), **columns}), path)
    return path


def stored(store) -> dict[str, tuple[str, str, tuple[float, ...]]]:
    """Return every caption of an index as id -> (text, source, vector)."""
    rows = [row for batch in store.scroll(vectors=True) for row in batch.to_pylist()]
    return {row["id"]: (row["text"], row["source"], tuple(row["vector"])) for row in rows}

"""What is evaluated: labelled images in Parquet files with the classes they are of, and their features."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rag_clip.data import Features, LabelSet
from rag_clip.evaluate.splits import Test
from rag_clip.labels import labels_to_document
from rag_clip.progress import Report, silent
from rag_clip.protocols import Encoder

from ..imaging.joined import encode_by_all
from ..imaging.rows import open_image_files
from ..labelled import read_classes


@dataclass(frozen=True, slots=True)
class ImageTask:
    """Labelled images to be classified: Parquet files or folders of them, and the classes."""

    name: str
    paths: tuple[Path, ...]
    labels: LabelSet
    image_column: str = "image"
    label_column: str = "label"

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits over the files' places, sizes and times of change, the columns and the classes."""
        facts = [
            [file_identity(file.path) for file in open_image_files(self.paths, image_column=self.image_column)],
            self.image_column,
            self.label_column,
            labels_to_document(self.labels),
        ]
        return digest(facts)


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """The n images that could be used, their row in the task's files int64 [n], and how many images failed."""

    test: Test
    rows: torch.Tensor
    failed: int


def read_images(
    task: ImageTask,
    *,
    encoder: Encoder,
    others: Mapping[str, Encoder] | None = None,
    features_dir: str | Path | None = None,
    workers: int | None = None,
    report: Report = silent,
) -> Measured:
    """Encode the images of a task by `encoder` and the `others`; features stay in `features_dir`, if given.

    Raises ValueError for labels that are not in the label set, naming some, and where no image can be used.
    """
    files = open_image_files(task.paths, image_column=task.image_column)
    classes = torch.tensor(read_classes(files, task.labels, task.label_column), dtype=torch.int64)
    with ExitStack() as stack:
        root = features_dir or stack.enter_context(tempfile.TemporaryDirectory())
        sources, _ = encode_by_all(
            files, root, encoder=encoder, others=others or {}, image_column=task.image_column, workers=workers,
            report=report,
        )  # fmt: skip
        shards = [joined.read(start) for _, joined in sources for start, _ in joined.spans()]
    good = np.concatenate([[error is None for error in shard.errors] for shard in shards])
    if not good.any():
        raise ValueError(f"none of the {len(good)} images of {task.name} can be used; {shards[0].errors[0]}")
    rows = torch.from_numpy(np.flatnonzero(good))
    pooled = torch.from_numpy(np.concatenate([shard.pooled for shard in shards])[good])
    moved = {
        name: torch.from_numpy(np.concatenate([shard.others[name] for shard in shards])[good]).to(encoder.device)
        for name in others or {}
    }
    features = Features(pooled.to(encoder.device), others=moved)
    test = Test(features, task.labels, classes[rows].to(encoder.device))
    return Measured(test, rows, int((~good).sum()))


def file_identity(path: str | Path) -> list[str | int]:
    """Return a file's place, size in bytes and time of change in nanoseconds; raises FileNotFoundError."""
    place = Path(path).resolve()
    status = place.stat()
    return [str(place), status.st_size, status.st_mtime_ns]


def digest(facts: object) -> str:
    """Return sixteen hexadecimal digits over plain values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]

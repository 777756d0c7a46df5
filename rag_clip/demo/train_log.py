"""The log of a demo training, one JSON object per line, and its checkpoint, which exists until it has finished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rag_clip.files.atomic import replacing
from rag_clip.training.checkpoint import Checkpoint


def unfinished(folder: Path, *, every: int) -> Checkpoint:
    """Return the checkpoint of a training that writes to `folder`; delete its file after writing the result."""
    return Checkpoint(folder / "train.checkpoint", every)


def note(folder: Path, facts: Mapping[str, object]) -> None:
    """Add a line to train.log in `folder`, after the lines of earlier steps; facts without a step begin a new log."""
    path, step = folder / "train.log", facts.get("step", 0)
    lines = path.read_text().splitlines() if step and path.exists() else []
    earlier = [line for line in lines if json.loads(line).get("step", 0) < step]
    with replacing(path) as partial:
        partial.write_text("".join(f"{line}\n" for line in [*earlier, json.dumps(facts)]))

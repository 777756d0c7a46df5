"""How a job runs: worker processes, batch size, what may be replaced, and where progress is reported."""

from __future__ import annotations

from dataclasses import dataclass

from rag_clip.images.decoding import Decoding
from rag_clip.progress import Report
from rag_clip.progress_line import on_screen
from rag_clip.protocols import Workers


@dataclass(frozen=True, slots=True)
class Running:
    """How a job runs; nothing here changes its result.

    workers: images decoded at once beside the encoding; 0 decodes between batches. None uses one per processor, at most
        16, or 0 for up to 512 images.
    batch_size: images that the encoder gets at once.
    force: replace files of other programs; an input is never replaced.
    report: called with the progress; `rag_clip.silent` shows none.
    shard_rows: rows that are stored together; an interrupted run loses the shard that it was making.

    elsewhere: what encodes in place of this process: `DeviceProcesses`, one a GPU, or `RayActors`. Captions of
        `embed_captions` and `build_index`, and images of all jobs that keep features or shards, are embedded there.

    Jobs without images ignore `workers`, `batch_size` and `shard_rows`. Raises ValueError as `Decoding`.
    """

    workers: int | None = None
    batch_size: int = 256
    force: bool = False
    report: Report = on_screen
    shard_rows: int = 1024
    elsewhere: Workers | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        self.decoding  # noqa: B018

    @property
    def decoding(self) -> Decoding:
        """How images are decoded and encoded."""
        return Decoding(self.workers, self.batch_size, self.shard_rows, self.elsewhere)

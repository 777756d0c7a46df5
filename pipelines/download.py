"""Download the images of a list of URLs with img2dataset: webdataset tars, and a status for every URL.

img2dataset runs in a process of its own, so a script needs no `__main__` guard. It may not open everything (see
images/web/guard.py): private hosts, other schemes than http and https, and endless responses are refused. Images whose
owners opted out by the X-Robots-Tag header are not downloaded.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from rag_clip.display import counted
from rag_clip.errors import RagClipError
from rag_clip.files.folders import make_folder
from rag_clip.files.lock import locked
from rag_clip.files.outputs import check_outputs
from rag_clip.images.web.rounds import (
    SHARD_PAIRS,
    Round,
    begin_round,
    failed_addresses,
    known_addresses,
    latest_statuses,
    list_rounds,
)
from rag_clip.images.web.url_lists import read_url_lists
from rag_clip.models.decode import MAX_PIXELS
from rag_clip.progress import ProgressEvent, Report
from rag_clip.progress_line import on_screen

from .running import Running

MAX_BYTES = 32 << 20
MAX_SECONDS = 60.0
LISTED_ERRORS = 20
OTHER_ERRORS = "other errors"
MOST_PROCESSES = 16
LOCK = "download.lock"
LOG = "img2dataset.log"
LOG_TAIL = 2000
_POLL_SECONDS = 0.2


class DownloadError(RagClipError):
    """img2dataset is missing or has failed; what it finished is kept."""


@dataclass(frozen=True, slots=True)
class DownloadSummary:
    """What the folder `output` contains now, over all runs: urls = downloaded + failed.

    output: the folder.
    urls, downloaded, failed: how many URLs, and how many of each outcome.
    errors: how often each error is the last of a failed URL, most frequent first.
    tried, seconds: URLs requested in this run, and how long it took.
    """

    output: Path
    urls: int
    downloaded: int
    failed: int
    errors: Mapping[str, int]
    tried: int
    seconds: float

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.downloaded} of {counted(self.urls, 'image')} in {self.output}; {self.tried} requested now"

    __repr__ = __str__


@dataclass(frozen=True, slots=True)
class Fetching:
    """How images are requested and stored.

    image_side: images whose shorter side is longer than this, in pixels, are scaled down and stored as JPEG.
    timeout: seconds for each step of a connection.
    processes: by default one per processor, at most 16.
    threads: connections of each process.
    shard_rows: URLs in a tar; an interrupted run loses the tar that it was making.
    allow_private: also request URLs of private networks.

    A response may have 32 MiB and 36 million pixels, and take 60 seconds. Raises ValueError for numbers below 1.
    """

    image_side: int = 512
    timeout: int = 10
    processes: int | None = None
    threads: int = 64
    shard_rows: int = SHARD_PAIRS
    allow_private: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("image_side", "timeout", "processes", "threads", "shard_rows"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")

    @property
    def settings(self) -> dict[str, int]:
        """The arguments of img2dataset.download."""
        return {
            "image_size": self.image_side,
            "timeout": self.timeout,
            "thread_count": self.threads,
            "processes_count": self.processes or min(MOST_PROCESSES, os.cpu_count() or 1),
        }

    @property
    def guard(self) -> dict[str, Any]:
        """What img2dataset may open."""
        return {"allow_private": self.allow_private, "max_bytes": MAX_BYTES, "max_seconds": MAX_SECONDS}


@on_screen.job()
def download_images(
    lists: Sequence[str | Path],
    *,
    output: str | Path,
    url_column: str = "url",
    caption_column: str | None = "caption",
    retry_failed: bool = False,
    fetching: Fetching = Fetching(),
    running: Running = Running(),  # noqa: B008
) -> DownloadSummary:
    """Download images into webdataset tars below `output`, which `index_images` reads.

    lists: Parquet, CSV, TSV or text files of URLs with captions.
    output: the folder of the tars. URLs with a status are not requested again.
    url_column, caption_column: the columns of the lists; None for no captions.
    retry_failed: request failed URLs again, except for those whose owner opted out.
    fetching: sizes, time limits and connections.
    running: `force` and progress.

    An interrupted run continues with the tar that it was making.

    Raises FileNotFoundError and ValueError for unusable lists, DownloadError if img2dataset is not installed or fails,
    and BusyError if another process downloads into `output`.
    """
    check_outputs([(output, "download")], inputs=[lists], force=running.force)
    if importlib.util.find_spec("img2dataset") is None:
        raise DownloadError("img2dataset is not installed; install it with: pip install 'rag-clip[download]'")
    addresses = read_url_lists(lists, url_column=url_column, caption_column=caption_column)
    output = Path(output)
    make_folder(output)
    run = _Runner(fetching, running.report)
    with locked(output / LOCK, doing=f"download into {output}"):
        start, before = time.perf_counter(), _count_done(list_rounds(output))
        _download(addresses, output, run, retry_failed=retry_failed)
        return _summarise(output, before, time.perf_counter() - start)


def _download(addresses: pl.DataFrame, output: Path, run: _Runner, *, retry_failed: bool) -> None:
    """Finish the rounds that were begun; then request new URLs and, if wanted, failed ones."""
    for turn in list_rounds(output):
        run(turn)
    rounds = list_rounds(output)
    retried = failed_addresses(rounds) if retry_failed else None
    fresh = addresses.join(known_addresses(rounds), on=["url", "caption"], how="anti", nulls_equal=True)
    for wanted in (fresh, retried):
        if wanted is not None and len(wanted):
            run(begin_round(output, wanted, shard_rows=run.fetching.shard_rows))


@dataclass(frozen=True, slots=True)
class _Runner:
    """Runs img2dataset over a round, until every shard of it is finished."""

    fetching: Fetching
    report: Report

    def __call__(self, turn: Round) -> None:
        rows = turn.rows
        if len(turn.done()) >= turn.shards:
            return
        job = {"guard": self.fetching.guard, "download": {**self.fetching.settings, **_job(turn)}}
        log = turn.output / LOG
        with log.open("wb") as file, _child(job, file) as process:
            while process.poll() is None:
                self.report(ProgressEvent("download", sum(turn.done().values()), rows, "images"))
                try:
                    process.wait(_POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
        self.report(ProgressEvent("download", sum(turn.done().values()), rows, "images"))
        if process.returncode or len(turn.done()) < turn.shards:
            tail = log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]
            raise DownloadError(
                f"img2dataset ended with exit code {process.returncode} and {len(turn.done())} of {turn.shards} shards "
                f"finished; they are kept; run again to continue. The end of {log}:\n{tail}"
            )


def _job(turn: Round) -> dict[str, Any]:
    """The arguments of img2dataset.download that do not depend on the caller."""
    return {
        "url_list": str(turn.addresses),
        "output_folder": str(turn.folder),
        "input_format": "parquet",
        "output_format": "webdataset",
        "url_col": "url",
        "caption_col": "caption",
        "number_sample_per_shard": turn.shard_rows,
        "resize_mode": "keep_ratio",
        "resize_only_if_bigger": True,
        "skip_reencode": True,
        "compute_hash": "sha256",
        "extract_exif": False,
        "enable_wandb": False,
        "incremental_mode": "incremental",
    }


@contextmanager
def _child(job: Mapping[str, Any], log: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start the worker; end it and its child processes when the block is left."""
    command = [sys.executable, "-P", "-m", "rag_clip.images.web.worker", json.dumps(job)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "OPENCV_IO_MAX_IMAGE_PIXELS": str(MAX_PIXELS),
    }
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            _end(process)
        process.communicate()


def _end(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)


def _count_done(rounds: Sequence[Round]) -> int:
    return sum(count for turn in rounds for count in turn.done().values())


def _summarise(output: Path, before: int, seconds: float) -> DownloadSummary:
    rounds = list_rounds(output)
    statuses = latest_statuses(rounds)
    failed = statuses.filter(pl.col("status") != "success")["error_message"].fill_null("unknown error")
    counts = dict(failed.value_counts(sort=True).sort(["count", "error_message"], descending=[True, False]).iter_rows())
    listed = dict(list(counts.items())[:LISTED_ERRORS])
    if len(counts) > LISTED_ERRORS:
        listed[OTHER_ERRORS] = sum(counts.values()) - sum(listed.values())
    return DownloadSummary(
        output=output,
        urls=len(statuses),
        downloaded=len(statuses) - len(failed),
        failed=len(failed),
        errors=listed,
        tried=_count_done(rounds) - before,
        seconds=seconds,
    )

"""kill -9 at random moments of the real process: afterwards the index is that of an undisturbed run."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from shard_corpus import build_alone, stored, write_captions

from rag_clip.store import open_store

ROWS = 600
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["rag_clip.pipelines.captions", "rag_clip.testing"])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[Path, dict, float]:
    """Three files in a folder; what an undisturbed build of them gives, and how many seconds it takes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for name in "abc":
        texts = [f"caption {name} {row}" if row % 50 else "the same everywhere" for row in range(ROWS)]
        write_captions(folder / f"{name}.parquet", texts)
    for copy in ("first", "second"):  # the first one warms the machine up
        shutil.copytree(folder, folder / copy, ignore=shutil.ignore_patterns("first"))
        begin = time.perf_counter()
        assert run(folder / copy, None, alone=True) == 0
        seconds = time.perf_counter() - begin
    return folder, contents(folder / "second"), seconds


def run(folder: Path, seconds: float | None, *, alone: bool) -> int | None:
    """Build in a process of its own, and kill it after some seconds, `alone` or with the engine's process."""
    process = PROCESSES.Process(target=build_alone, args=(str(folder),))
    process.start()
    process.join(seconds)
    if process.is_alive():
        has_session = os.getpgid(process.pid) == process.pid
        (os.killpg if has_session and not alone else os.kill)(process.pid, signal.SIGKILL)
        process.join()
    return process.exitcode


def contents(folder: Path) -> dict:
    with open_store(folder / "index") as store:
        return stored(store)


def finished(folder: Path) -> set[str]:
    """Return the captions of the shards that are finished, but for the one that every shard has."""
    found = [json.loads(path.read_text()) for path in (folder / "index.shards").glob("*.json")]
    spans = [(Path(one["url"]).stem, range(one["start"], one["start"] + one["rows"])) for one in found]
    return {f"caption {name} {row}" for name, rows in spans for row in rows if row % 50}


def check_kills(corpus: tuple[Path, dict, float], folder: Path, seed: int, kills: int) -> None:
    source, expected, seconds = corpus
    for path in source.glob("*.parquet"):
        shutil.copy2(path, folder)
    draw = random.Random(seed)
    for kill in range(kills + 1):
        before, log = finished(folder), folder / "embedded.txt"
        log.unlink(missing_ok=True)
        last = kill == kills
        code = run(folder, None if last else draw.uniform(0, 0.9 * seconds), alone=draw.random() < 0.5)
        assert code in ((0,) if last else (0, -signal.SIGKILL))
        again = set(log.read_text().splitlines()) & before if log.exists() else set()
        assert again == set(), "a finished shard was embedded again"
    assert contents(folder) == expected
    assert len(expected) == 3 * (ROWS - ROWS // 50) + 3
    assert not list((folder / "index.shards").glob(".*.partial"))


@pytest.mark.parametrize("seed", range(2))
def test_three_kills_lose_nothing_double_nothing_and_embed_no_shard_twice(corpus, tmp_path, seed):
    check_kills(corpus, tmp_path, seed, kills=3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 110))
def test_forty_kills_lose_nothing_double_nothing_and_embed_no_shard_twice(corpus, tmp_path, seed):
    check_kills(corpus, tmp_path, seed, kills=4)

"""kill -9 at random moments of the real process: afterwards the index is that of an undisturbed run."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import signal
from pathlib import Path

import pytest

from inputs.captions import build_killed, stored, write_captions
from rag_clip.store import open_store

ROWS = 600
EVENTS = 108  # of a whole build: 36 shards are reported twice when they are embedded, once when they are loaded
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["rag_clip.pipelines.captions", "rag_clip.testing"])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[Path, dict]:
    """Three files in a folder, and what an undisturbed build of them gives."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for name in "abc":
        texts = [f"caption {name} {row}" if row % 50 else "the same everywhere" for row in range(ROWS)]
        write_captions(folder / f"{name}.parquet", texts)
    assert run(folder, None) == 0
    return folder, contents(folder)


def run(folder: Path, events: int | None, seconds: float = 0, *, alone: bool = True) -> int | None:
    """Build in a process of its own, to be killed as `build_killed` says, and return its exit code."""
    process = PROCESSES.Process(target=build_killed, args=(str(folder), events, seconds), kwargs={"alone": alone})
    process.start()
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


def check_kills(corpus: tuple[Path, dict], folder: Path, seed: int, kills: int) -> None:
    source, expected = corpus
    for path in source.glob("*.parquet"):
        shutil.copy2(path, folder)
    draw, codes = random.Random(seed), []
    for kill in range(kills + 1):
        before, log = finished(folder), folder / "embedded.txt"
        log.unlink(missing_ok=True)
        events = draw.randrange(2 * EVENTS // (kills + 1)) if kill < kills else None
        codes.append(run(folder, events, draw.uniform(0, 0.02), alone=draw.random() < 0.5))
        again = set(log.read_text().splitlines()) & before if log.exists() else set()
        assert again == set(), "a finished shard was embedded again"
    assert (codes[0], set(codes) - {-signal.SIGKILL}) == (-signal.SIGKILL, {0})
    assert contents(folder) == expected
    assert len(expected) == 3 * (ROWS - ROWS // 50) + 3
    assert not list((folder / "index.shards").glob(".*.partial"))


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 5))])
def test_four_kills_lose_nothing_double_nothing_and_embed_no_shard_twice(corpus, tmp_path, seed):
    check_kills(corpus, tmp_path, seed, kills=4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 110))
def test_eight_kills_lose_nothing_double_nothing_and_embed_no_shard_twice(corpus, tmp_path, seed):
    check_kills(corpus, tmp_path, seed, kills=8)

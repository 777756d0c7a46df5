"""Loads into a server process that is killed in the middle, comes back or stays away, or has another client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.qdrant_process import QdrantProcess
from inputs.qdrant_real import KILLED, RealQdrant, in_copies, needs_command
from rag_clip.captions.shards import ShardFolder, read_manifests
from rag_clip.files.lock import BusyError
from rag_clip.pipelines.embed import embed_captions
from rag_clip.pipelines.load import LoadSummary, load_into, load_shards
from rag_clip.progress import ProgressEvent, Report, silent
from rag_clip.store import Card, CollectionSchema, Store, StoreError, caption_id, load_schema, open_store
from rag_clip.store.connection import connect, create_server
from rag_clip.store.server_errors import ATTEMPTS
from rag_clip.testing import ToyEncoder

ENCODER = ToyEncoder(dim=8)
SHARD_ROWS = 600
TEXTS = [f"caption {row % 1600}" for row in range(4 * SHARD_ROWS)]

pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning")


@pytest.fixture
def server(tmp_path) -> Iterator[QdrantProcess]:
    server = QdrantProcess(tmp_path / "server")
    yield server
    server.kill()


@pytest.fixture
def shards(tmp_path) -> Path:
    """Four shards, each of three requests, the last of which repeat captions of the first."""
    return embedded(tmp_path / "web", TEXTS)


def embedded(folder: Path, texts: list[str]) -> Path:
    folder.mkdir()
    pq.write_table(pa.table({"caption": texts, "source": ["web"] * len(texts)}), folder / "web.parquet")
    embed_captions([folder / "web.parquet"], encoder=ENCODER, shards=ShardFolder(folder / "shards", rows=SHARD_ROWS))
    return folder / "shards"


def load(
    server: QdrantProcess | RealQdrant,
    shards: Path,
    pause: Callable[[float], None],
    report: Report = silent,
    schema: CollectionSchema | None = None,
) -> LoadSummary:
    """Load as `load_shards` does, with other pauses."""
    client, _collection = connect(server.location, server.key)
    wanted = Card(ENCODER.fingerprint, schema or load_schema(), ENCODER.dim)
    engine, card = create_server(client, "captions", server.location, wanted, pause=pause)
    with Store(engine, card, server.location) as store:
        return load_into(store, shards, read_manifests(shards), report=report)


def check_contents(server: QdrantProcess | RealQdrant, texts: list[str]) -> None:
    """Every caption is there once, with its own vector."""
    with open_store(server.location) as store:
        rows = [row for page in store.scroll(vectors=True) for row in page.to_pylist()]
    expected = {caption_id("web", text): text for text in texts}
    assert [(row["id"], row["text"]) for row in rows] == sorted(expected.items())
    vectors = ENCODER.encode_text([row["text"] for row in rows]).numpy()
    np.testing.assert_allclose([row["vector"] for row in rows], vectors, atol=2e-3)


CLIENT = """
import os, signal, sys, threading
from rag_clip.pipelines.load import load_shards

def report(event):
    if event.stage == "load" and event.done == 1200:
        threading.Timer(0.005, os.kill, [os.getpid(), signal.SIGKILL]).start()

load_shards(sys.argv[1], index=sys.argv[2], report=report)
"""


def check_killed_client(server: QdrantProcess | RealQdrant, shards: Path) -> None:
    """A load is killed in the third of four shards; the next one completes it."""
    command = [sys.executable, "-c", CLIENT, str(shards), server.location]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
    finished = len(recorded(shards))
    summary = load_shards(shards, index=server.location)
    assert (summary.finished, summary.loaded, summary.count) == (finished, 4 - finished, 1600)
    assert 1 <= finished <= 3
    check_contents(server, TEXTS)


def recorded(shards: Path) -> list[str]:
    [record] = (shards / "loaded").glob("*.txt")
    return record.read_text().splitlines()


def test_a_server_killed_in_a_load_and_started_again_has_every_caption_once(server, shards):
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        """Bring the server back when three requests have failed; a quarter of the time is enough here."""
        pauses.append(seconds)
        if len(pauses) >= 3:
            server.start()
        time.sleep(seconds / 4)

    summary = load(server.start(dies_at="Upsert:5"), shards, pause)
    assert (server.starts, summary.loaded, summary.written, summary.count) == (2, 4, 2400, 1600)
    assert len(pauses) >= 3
    assert len(recorded(shards)) == 4
    check_contents(server, TEXTS)


def test_a_server_that_stays_away_ends_the_load_and_the_next_one_goes_on(server, shards):
    pauses: list[float] = []
    message = r"the Qdrant server failed on captions: .*is it running, with gRPC reachable, .* What was written is kept"
    with pytest.raises(StoreError, match=message):
        load(server.start(dies_at="Upsert:8"), shards, pauses.append)
    assert server.wait() == -signal.SIGKILL
    assert len(pauses) >= ATTEMPTS - 1
    finished = recorded(shards)
    assert len(finished) == 2
    with pytest.raises(StoreError, match=message.replace("captions", server.location)):
        load_shards(shards, index=server.location)
    summary = load_shards(shards, index=server.start().location)
    assert (summary.loaded, summary.finished, summary.written, summary.count) == (2, 2, 1200, 1600)
    assert recorded(shards)[:2] == finished
    check_contents(server, TEXTS)


@pytest.mark.parametrize("call", ["Count:1", "Get:1", "Update:1", "Count:2"])
def test_a_server_killed_before_or_after_the_writing_is_waited_for_too(server, tmp_path, call):
    shards = embedded(tmp_path / "few", TEXTS[:20])
    load(server.start(), shards, time.sleep)
    server.kill()
    more = embedded(tmp_path / "more", TEXTS[20:50])
    (more / "loaded").mkdir()
    for found in (*shards.glob("*.parquet"), *shards.glob("*.json"), *shards.glob("loaded/*.txt")):
        found.rename(more / found.relative_to(shards))
    starts: list[int] = []

    def restart(_seconds: float) -> None:
        starts.append(server.wait())
        server.start()

    summary = load(server.start(dies_at=call), more, restart)
    assert (starts, summary.finished, summary.loaded, summary.count) == ([-signal.SIGKILL], 1, 1, 50)
    check_contents(server, TEXTS[:50])


def test_a_key_that_changes_in_the_middle_of_a_load_is_told_at_once(server, tmp_path):
    shards = embedded(tmp_path / "few", TEXTS[:20])
    pauses: list[float] = []

    def lock(seconds: float) -> None:
        pauses.append(seconds)
        server.wait()
        server.key = "another"
        server.start()

    with pytest.raises(StoreError, match=r"failed on captions: it refused the API key .*; set QDRANT_API_KEY"):
        load(server.start(dies_at="Upsert:1"), shards, lock)
    assert len(pauses) == 1


def test_a_load_keeps_three_requests_under_way(server, tmp_path):
    shards = embedded(tmp_path / "three", TEXTS[: 3 * 200])
    summary = load(server.start(together=3), shards, time.sleep)
    assert (summary.written, summary.count) == (600, 600)


def test_a_second_load_of_the_same_shards_is_refused_while_the_first_runs(server, shards):
    server.start()
    refusals: list[str] = []

    def load_again(event: ProgressEvent) -> None:
        if event.stage == "load" and not refusals:
            with pytest.raises(BusyError) as error:
                load_shards(shards, index=server.location)
            refusals.append(str(error.value))

    summary = load(server, shards, time.sleep, report=load_again)
    assert summary.count == 1600
    expected = f"cannot load {shards} into {server.location}: process {os.getpid()} is at it; wait until it ends"
    assert [refusal.partition(", or stop it")[0] for refusal in refusals] == [expected]
    check_contents(server, TEXTS)


def test_two_loads_of_overlapping_shards_into_one_new_collection_at_once_leave_each_caption_once(server, tmp_path):
    server.start()
    parts = [embedded(tmp_path / "one", TEXTS[:1000]), embedded(tmp_path / "two", TEXTS[500:1500])]
    together = threading.Barrier(2)

    def one(part: Path) -> LoadSummary:
        together.wait(timeout=60)
        return load_shards(part, index=server.location)

    with ThreadPoolExecutor(2) as threads:
        summaries = list(threads.map(one, parts))
    assert [(summary.loaded, summary.written) for summary in summaries] == [(2, 1000), (2, 1000)]
    assert all(0 <= summary.added <= summary.written for summary in summaries)
    assert max(summary.count for summary in summaries) == 1500
    check_contents(server, TEXTS[:1500])


def test_the_growth_of_an_index_by_others_is_not_taken_for_ones_own(server, tmp_path):
    server.start()
    mine, theirs = embedded(tmp_path / "mine", TEXTS[:300]), embedded(tmp_path / "theirs", TEXTS[:1000])
    loads: list[LoadSummary] = []

    def load_theirs(event: ProgressEvent) -> None:
        if event.stage == "load" and not loads:
            loads.append(load_shards(theirs, index=server.location))

    summary = load(server, mine, time.sleep, report=load_theirs)
    assert (loads[0].written, loads[0].added, loads[0].count) == (1000, 700, 1000)
    assert (summary.written, summary.added, summary.count) == (300, 300, 1000)


@pytest.mark.slow
def test_a_load_that_is_killed_is_completed_by_the_next_one(server, shards):
    check_killed_client(server.start(), shards)


@pytest.mark.server
@needs_command
@pytest.mark.parametrize("nodes", [1, 3])
def test_a_load_into_a_real_server_that_is_killed_is_completed_by_the_next_one(shards, tmp_path, nodes):
    with RealQdrant(tmp_path / "real", nodes=nodes) as real:
        check_killed_client(real, shards)


@pytest.mark.server
@needs_command
@KILLED
def test_a_real_node_killed_in_a_load_and_started_again_loses_nothing(shards, tmp_path, nodes, victim):
    killers: list[threading.Timer] = []
    pauses: list[float] = []

    def kill(event: ProgressEvent) -> None:
        if event.stage == "load" and not killers:
            killers.append(threading.Timer(0.01, real.kill, [victim]))
            killers[0].start()

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) >= 3:
            real.start()
        time.sleep(seconds / 4)

    with RealQdrant(tmp_path / "real", nodes=nodes) as real:
        summary = load(real, shards, pause, kill, in_copies(nodes))
        killers[0].join()
        assert real.start().starts == nodes + 1
        assert (summary.loaded, summary.written, summary.count) == (4, 2400, 1600)
        check_contents(real, TEXTS)


@pytest.mark.slow
def test_the_command_fails_when_the_server_stays_away_and_completes_when_run_again(server, shards, tmp_path):
    server.start(dies_at="Upsert:8")
    program = str(Path(sys.executable).with_name("rag-clip"))
    command = [program, "index", "load", str(shards), "--index", server.location]
    first = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (first.returncode, server.wait()) == (1, -signal.SIGKILL)
    assert "rag-clip: the Qdrant server failed on captions" in first.stderr
    assert "Traceback" not in first.stderr
    server.start()
    assert subprocess.run(command, capture_output=True, cwd=tmp_path, check=False).returncode == 0
    check_contents(server, TEXTS)

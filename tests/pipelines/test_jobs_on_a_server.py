"""Every job on a server, from captions to predictions and snapshots, gives what it gives in a folder."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.command_line import run
from inputs.photographs import photographs
from inputs.stores import REAL, copies, served
from rag_clip.demo.concepts import concepts
from rag_clip.files.prompts import read_prompts
from rag_clip.store import open_store

NAMES = [concept.name for concept in concepts()[:6]]
CAPTIONS = 400
SCHEMA = """
[server]
replication_factor = {0.replication_factor}
write_consistency = {0.write_consistency}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captions, labels and photographs of the bundled world, and all that the jobs make of them in a folder."""
    folder = tmp_path_factory.mktemp("jobs")
    corpus = pq.read_table(str(files("rag_clip.demo") / "assets" / "corpus.parquet"))
    pq.write_table(corpus.slice(0, CAPTIONS), folder / "captions.parquet")
    (folder / "labels.txt").write_text("\n".join(NAMES))
    pq.write_table(pa.table({"image": photographs(6), "label": NAMES}), folder / "images.parquet")
    (folder / "schema.toml").write_text(SCHEMA.format(copies()))
    do(folder, "index", "build", "captions.parquet", "--index", "index", "--model", "demo")
    use(folder, "index", "folder")
    return folder


@pytest.fixture(params=["oldest", REAL])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a collection that does not exist."""
    with served(request.param, tmp_path) as server:
        yield f"{server}/jobs-{uuid.uuid4()}"


def do(folder: Path, *arguments: object) -> dict[str, Any]:
    """Run a command and return its summary."""
    outcome = run(*arguments, "--json", folder=folder)
    assert outcome.code == 0, outcome.errors
    facts: dict[str, Any] = json.loads(outcome.out)
    return facts


def use(folder: Path, index: str, name: str | Path) -> None:
    """Make prompts by an index, and classify the photographs with them."""
    do(folder, "enhance", "labels.txt", "--index", index, "-o", f"{name}.parquet")
    prompts = ("--prompts", f"{name}.parquet", "--workers", 0)
    do(folder, "classify", "images.parquet", *prompts, "-o", f"{name}-predictions.parquet")


def rows(index: str | Path) -> list[dict[str, Any]]:
    with open_store(index) as store:
        return [row for page in store.scroll(vectors=True, payload=True) for row in page.to_pylist()]


def check_same_rows(one: str | Path, other: str | Path) -> None:
    left, right = rows(one), rows(other)
    assert np.allclose([row.pop("vector") for row in left], [row.pop("vector") for row in right], atol=1e-6)
    assert left == right


def test_every_job_gives_on_a_server_what_it_gives_in_a_folder(folder: Path, address: str, tmp_path: Path) -> None:
    build = ("index", "build", "captions.parquet", "--index", address, "--model", "demo", "--schema", "schema.toml")
    built = do(folder, *build, "--shards", tmp_path / "shards")
    again = do(folder, *build, "--shards", tmp_path / "shards")
    assert (built["added"], again["added"], again["embedded"], again["count"]) == (built["count"], 0, 0, built["count"])
    check_same_rows(folder / "index", address)
    assert do(folder, "index", "check", address, "--queries", 20)["recall"] == 1
    use(folder, address, tmp_path / "server")
    folder_prompts, prompts = read_prompts(folder / "folder.parquet"), read_prompts(tmp_path / "server.parquet")
    assert prompts.texts == folder_prompts.texts
    predictions = pq.read_table(tmp_path / "server-predictions.parquet")
    assert predictions.equals(pq.read_table(folder / "folder-predictions.parquet"))

    do(folder, "index", "copy", address, tmp_path / "copy")
    do(folder, "index", "copy", tmp_path / "copy", f"{address}-back")
    do(folder, "index", "snapshot", f"{address}-back", "-o", tmp_path / "index.snapshot")
    do(folder, "index", "restore", tmp_path / "index.snapshot", "--index", f"{address}-restored")
    do(folder, "index", "restore", tmp_path / "index.snapshot", "--index", tmp_path / "restored")
    for place in (tmp_path / "copy", f"{address}-back", f"{address}-restored", tmp_path / "restored"):
        check_same_rows(folder / "index", place)
    facts = do(folder, "index", "info", f"{address}-restored")
    assert (facts["engine"], facts["status"], facts["count"]) == ("server", "ready", built["count"])
    assert facts["card"]["notes"].keys() >= {"corpus", "restore"}

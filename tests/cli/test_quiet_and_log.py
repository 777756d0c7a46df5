"""`--quiet` and `--log`: what is shown, and what is written down."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.command_line import run

BUILD = ("index", "build", "captions.parquet", "--index", "index", "--model", "demo")
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with captions."""
    pq.write_table(pa.table({"caption": ["a red flag in town", "a blue die"]}), tmp_path / "captions.parquet")
    return tmp_path


def test_a_quiet_run_shows_nothing_but_what_went_wrong(folder: Path) -> None:
    built = run(*BUILD, "--quiet", folder=folder)
    assert (built.code, built.out, built.errors) == (0, "", "")
    failed = run("index", "info", "nowhere", "--quiet", folder=folder)
    assert (failed.code, failed.out, failed.errors.startswith("rag-clip: no index at nowhere")) == (
        1,
        "",
        True,
    )
    both = run(*BUILD, "--quiet", "--json", folder=folder)
    assert (json.loads(both.out)["count"], both.errors) == (2, "")


def test_a_log_holds_command_progress_summary_and_errors_of_one_run_after_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["rag-clip", *BUILD, "--log", "logs/run.log"])
    built = run(*BUILD, "--quiet", "--log", "logs/run.log", folder=folder)
    run("index", "info", "nowhere", "--log", "logs/run.log", folder=folder)
    lines = (folder / "logs/run.log").read_text().splitlines()
    assert [line for line in lines if not TIME.match(line)] == []
    said = [TIME.sub("", line) for line in lines]
    assert (built.code, said[0]) == (0, f"# rag-clip: {' '.join(BUILD)} --log logs/run.log")
    assert said[1].startswith("loading the model demo: ")
    assert said[2].startswith("embed: 2 of 2 captions, in")
    assert "2 captions in index: 2 added, 0 dropped of 2 read" in said
    assert said[-1].startswith("rag-clip: no index at nowhere")


@pytest.mark.parametrize("name", ["captions.parquet", "."])
def test_a_file_that_is_no_log_is_left_as_it_is(name: str, folder: Path) -> None:
    before = (folder / "captions.parquet").read_bytes()
    refused = run(*BUILD, "--log", name, folder=folder)
    assert (refused.code, refused.out) == (1, "")
    assert refused.errors == f"rag-clip: {name} exists and is not a log of rag-clip; name another file for --log\n"
    assert (folder / "captions.parquet").read_bytes() == before
    assert not (folder / "index").exists()


def test_an_address_in_a_log_keeps_its_secrets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["rag-clip", "index", "info", "http://user:secret@127.0.0.1:9/x"])
    run("index", "info", "nowhere", "--log", "run.log", folder=folder)
    assert "secret" not in (folder / "run.log").read_text()

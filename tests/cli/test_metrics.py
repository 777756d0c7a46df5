from __future__ import annotations

import re
import socket
import urllib.error
import urllib.request
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from inputs.captions import write_captions
from inputs.command_line import run
from rag_clip.cli import app
from rag_clip.cli.metrics import Metrics
from rag_clip.progress import ProgressEvent

SAMPLE = re.compile(r'[a-z_]+(\{stage="(?:[^"\\]|\\.)*",unit="(?:[^"\\]|\\.)*"\})? [0-9.]+')


def samples(path: Path) -> dict[str, float]:
    return parsed(path.read_text())


def parsed(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("# ")]
    assert [line for line in lines if not SAMPLE.fullmatch(line)] == []
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_a_run_leaves_its_progress_and_exit_code(tmp_path: Path) -> None:
    captions = write_captions(tmp_path / "captions.parquet", [f"caption {row}" for row in range(12)])
    for path, expected in ((captions, 0), (tmp_path / "nowhere.parquet", 1)):
        metrics = tmp_path / "run.prom"
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            code = app(
                [
                    *("index", "embed", str(path), "--shards", str(tmp_path / "shards"), "--model", "demo"),
                    *("--metrics", str(metrics)),
                ],
                result_action="return_value",
            )
        found = samples(metrics)
        assert (code, found["rag_clip_exit_code"], found["rag_clip_running"]) == (expected, expected, 0)
        if not expected:
            assert found['rag_clip_items_done{stage="embed",unit="captions"}'] == 12
            assert found['rag_clip_items_total{stage="embed",unit="captions"}'] == 12


def test_a_running_job_has_no_exit_code_and_quotes_are_escaped(tmp_path: Path) -> None:
    metrics = Metrics(str(tmp_path / "run.prom"))
    assert samples(tmp_path / "run.prom").keys() == {
        "rag_clip_started_seconds",
        "rag_clip_updated_seconds",
        "rag_clip_running",
    }
    metrics.report(ProgressEvent('a "b" \\', 3))
    metrics.end(130)
    found = samples(tmp_path / "run.prom")
    assert found['rag_clip_items_done{stage="a \\"b\\" \\\\",unit="rows"}'] == 3
    assert found["rag_clip_exit_code"] == 130


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("run.txt", "takes FILE.prom, as .*, or :PORT"),
        ("other.prom", "holds no metrics of rag-clip"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "other.prom").write_text("mine")
    with pytest.raises(ValueError, match=message):
        Metrics(str(tmp_path / name))
    assert (tmp_path / "other.prom").read_text() == "mine"


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number: int = listener.getsockname()[1]
    return number


def scrape(port: int, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return str(answer.read().decode())


@pytest.mark.parametrize("host", ["", "127.0.0.1", "localhost"])
def test_a_running_job_is_scraped_on_a_port_until_it_ends(port: int, host: str) -> None:
    metrics = Metrics(f"{host}:{port}")
    metrics.report(ProgressEvent("embed", 3, 12, "captions"))
    found = parsed(scrape(port))
    assert found['rag_clip_items_done{stage="embed",unit="captions"}'] == 3
    assert (found["rag_clip_running"], "rag_clip_exit_code" in found) == (1, False)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        scrape(port, "/")
    metrics.end(0)
    with pytest.raises(urllib.error.URLError, match="refused"):
        scrape(port)
    Metrics(f":{port}").end(0)  # the port is free again


def test_a_port_that_is_taken_is_named_before_the_run(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        outcome = run("index", "info", tmp_path, "--metrics", f":{port}", folder=tmp_path)
    assert outcome.code == 1
    assert outcome.errors.startswith(f"rag-clip: --metrics cannot listen on port {port} of 127.0.0.1 (")
    with pytest.raises(ValueError, match="cannot listen on port 70000"):
        Metrics(":70000")

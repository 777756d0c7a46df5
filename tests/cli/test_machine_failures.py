"""What a machine lacks, or a person interrupts: one sentence and exit code 1 (130), never a trace."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from contextlib import ExitStack, chdir, redirect_stdout, suppress
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import SafetensorError

from inputs.command_line import run
from inputs.limits import limited
from inputs.photographs import photographs
from rag_clip.__main__ import main
from rag_clip.cli import app
from rag_clip.errors import disk_errors, explain, lacks

MORE = (
    "close other programs, or ask for less at once (a smaller --batch-size, fewer --workers); what is finished is kept"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labelled photographs, prompts, a support file, and captions."""
    folder = tmp_path_factory.mktemp("machine")
    pq.write_table(pa.table({"image": photographs(2), "label": ["red", "blue"]}), folder / "i.parquet")
    (folder / "labels.txt").write_text("red\nblue\n")
    (folder / "captions.txt").write_text("".join(f"a red flag, the {row}th of many\n" for row in range(2000)))
    (folder / "learn.toml").write_text("schedule = { epochs = 1 }\n")
    demo = ("--model", "demo")
    made = run("enhance", "labels.txt", "--recipe", "templates", *demo, "-o", "p.parquet", folder=folder)
    options = ("--labels", "labels.txt", "-k", 1, "--views", 0, "-o", "s.parquet", "--workers", 0)
    drawn = run("support", "shots", "i.parquet", *options, *demo, folder=folder)
    assert (made[0], drawn[0]) == (0, 0)
    return folder


def test_a_full_disk_in_learn_is_said_and_leaves_nothing(folder: Path) -> None:
    asked = ("learn", "s.parquet", "--prompts", "p.parquet", "--model", "demo", "--options", "learn.toml")
    with limited(resource.RLIMIT_FSIZE, 512):
        code, out, errors = run(*asked, "-o", "new/l.safetensors", folder=folder)
    assert (code, out) == (1, "")
    assert errors.splitlines()[-1] == (
        "rag-clip: [Errno 27] cannot write new/l.safetensors ([Errno 27] File too large); make room, or name another "
        "file"
    )
    assert not list((folder / "new").glob("*.safetensors")) + list((folder / "new").glob(".*.partial"))


@pytest.mark.parametrize("bytes_free", [2_000, 8_000, 20_000])
def test_a_full_disk_while_a_corpus_is_counted_is_said(folder: Path, bytes_free: int) -> None:
    asked = (
        "index",
        "embed",
        "captions.txt",
        "--cleaning",
        "align",
        "--model",
        "demo",
        "--shards",
        f"full{bytes_free}",
    )
    with limited(resource.RLIMIT_FSIZE, bytes_free):
        code, out, errors = run(*asked, folder=folder)
    assert (code, out) == (1, "")
    assert errors.splitlines()[-1].startswith("rag-clip: [Errno 27] ")
    assert not list((folder / f"full{bytes_free}").glob(".*.partial"))


def test_no_free_file_handle_is_said(folder: Path) -> None:
    asked = ("classify", "i.parquet", "--prompts", "p.parquet", "--model", "demo", "-o", "o.parquet")
    run(*asked, "--workers", 0, folder=folder)  # what is imported by now needs no handle
    with limited(resource.RLIMIT_NOFILE, 400), ExitStack() as stack:
        with suppress(OSError):
            while True:  # takes every free number, also those that earlier tests have closed
                last = stack.enter_context(Path(os.devnull).open("rb"))
        last.close()
        code, out, errors = run(*asked, "--workers", 2, "--force", folder=folder)
    assert (code, out) == (1, "")
    assert "Too many open files" in errors
    assert "allow more open files (ulimit -n 4096), or give fewer --workers" in errors
    assert (folder / "o.parquet").is_file()


def test_memory_that_torch_cannot_get_is_said() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**59)
    said = explain(raised.value)
    assert said is not None
    assert said.startswith("memory ran out (")
    assert said.endswith(f"); {MORE}")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), f"memory ran out; {MORE}"),
        (pa.ArrowMemoryError("malloc of size 64 failed"), f"memory ran out (malloc of size 64 failed); {MORE}"),
        (torch.OutOfMemoryError("CUDA out of memory."), f"the device's memory ran out (CUDA out of memory.); {MORE}"),
        (
            RuntimeError("can't start new thread"),
            "no further thread can be started; allow more processes (ulimit -u), or give fewer --workers",
        ),
        (
            ImportError("libx.so: cannot open shared object file: Too many open files"),
            "[Errno 24] Too many open files; allow more open files (ulimit -n 4096), or give fewer --workers",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "[Errno 28] No space left on device; make room and run again; what is finished is kept",
        ),
        (OSError(errno.ENOSPC, "cannot write a; make room"), "[Errno 28] cannot write a; make room"),
        (
            UnicodeEncodeError("utf-8", "a\udce9.parquet", 1, 2, "surrogates not allowed"),
            r"the text 'a\udce9.parquet' is not valid Unicode at character 1; rename the file, or fix the text",
        ),
        (ValueError("one\n two\n"), "one; two"),
    ],
)
def test_what_is_lacking_is_said_in_a_line(error: Exception, message: str) -> None:
    assert explain(error) == message


@pytest.mark.parametrize(
    "error",
    [
        KeyError("a"),
        TypeError("b"),
        RuntimeError("shape"),
        RecursionError(),
        ImportError("no module"),
        AssertionError(),
    ],
)
def test_a_fault_of_ours_keeps_its_trace(error: Exception) -> None:
    assert (explain(error), lacks(error)) == (None, None)


@pytest.mark.parametrize("kind", [SafetensorError, pl.exceptions.ComputeError])
def test_a_full_disk_that_a_library_hides_is_an_error_of_the_system(kind: type[Exception]) -> None:
    with (
        pytest.raises(OSError, match=r"cannot write a.b \(\[Errno 28\] No space left on device\); make room") as raised,
        disk_errors(Path("a.b")),
    ):
        raise kind("I/O error: No space left on device (os error 28)")
    assert raised.value.errno == errno.ENOSPC
    with pytest.raises(kind, match="invalid"), disk_errors(Path("a.b")):
        raise kind("invalid")


def start(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python code in a new process."""
    return subprocess.run([sys.executable, "-c", code], text=True, stderr=subprocess.PIPE, check=False, **options)


@pytest.mark.parametrize(
    ("module", "verb", "said"),
    [
        ("rich.console", ["heads"], "interrupted before anything was done\n"),
        (
            "torch",
            [*["classify", "i.parquet", "--prompts", "p.parquet", "-o", "o.parquet"]],
            "interrupted; finished work is kept, run the same command again to continue\n",
        ),
    ],
)
def test_ctrl_c_while_modules_load_is_a_sentence(module: str, verb: list[str], said: str) -> None:
    interrupt = f"""
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = ["rag-clip", *{verb!r}]
from rag_clip.__main__ import main
main()
"""
    ended = start(interrupt)
    assert (ended.returncode, ended.stderr) == (130, said)


class FullDisk(StringIO):
    """A stream to a disk without room."""

    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["--help", "heads"])
def test_a_full_disk_behind_the_output_is_told_once(command: str, unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "rag_clip", command],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr.startswith("rag-clip: [Errno 28] No space left on device; make room")
    assert len(ended.stderr.splitlines()) == 1


def test_closed_and_full_streams_end_in_no_trace(capsys: pytest.CaptureFixture[str]) -> None:
    call = [sys.executable, "-m", "rag_clip"]
    closed = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *call, "--help"], check=False)
    assert closed.returncode == 0
    with redirect_stdout(FullDisk()):
        assert app(["heads"], result_action="return_value") == 1
    assert capsys.readouterr().err.startswith("rag-clip: [Errno 28] No space left on device; make room")


@pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")  # it reads sys.argv, as a user's does
def test_a_terminal_that_cannot_show_a_character_gets_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "labels.txt").write_text("Café\n東京\n", encoding="utf-8")
    options = ["labels.txt", "--recipe", "templates", "--model", "demo", "-o", "p.json"]
    terminal = BytesIO()
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, TextIOWrapper(terminal, encoding="ascii"))
    monkeypatch.setattr(sys, "argv", ["rag-clip", "enhance", *options])
    monkeypatch.setenv("TERM", "dumb")
    handler = signal.getsignal(signal.SIGINT)
    try:
        with chdir(tmp_path), pytest.raises(SystemExit) as ended:
            main()
    finally:
        signal.signal(signal.SIGINT, handler)
    sys.stdout.flush()
    assert (ended.value.code, b"a photo of a Caf\\xe9." in terminal.getvalue()) == (0, True)


def test_a_message_that_quotes_a_long_value_keeps_its_beginning_and_its_end():
    said = explain(ValueError(f"unknown setting {'x' * 5000!r}; known are alpha and beta"))
    assert said is not None
    assert len(said) < 1010
    assert said.startswith("unknown setting 'xxxx")
    assert said.endswith("xxx'; known are alpha and beta")
    assert explain(ValueError("x" * 1000)) == "x" * 1000

"""What the command line shows while it works, away from a terminal and at the end."""

from __future__ import annotations

import pytest

from rag_clip.cli.console import Console
from rag_clip.progress import Progress, ProgressEvent


def test_away_from_a_terminal_a_stage_prints_its_end_and_not_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    with Console() as console:
        for done in (1, 2, 3):
            console.report(ProgressEvent("index", done, 3, "captions"))
        console.report(ProgressEvent("optimise", 1, None, "seconds"))
    assert capsys.readouterr().err == "index: 3 of 3 captions, in 0 s\n"


def test_a_stage_that_starts_over_counts_its_rate_anew(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([0.0, 10.0, 20.0, 21.0])
    monkeypatch.setattr("time.monotonic", lambda: next(seconds))
    with Console() as console:
        for done in (1, 10, 1, 10):
            console.report(ProgressEvent("write", done, 10))
    assert capsys.readouterr().err == (
        "write: 10 of 10 rows, 1 rows/s, in 10 s\nwrite: 10 of 10 rows, 10 rows/s, in 1 s\n"
    )


def test_a_long_stage_tells_its_rate_and_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 110.0, 114.0, 120.0, 130.0, 136.0])
    monkeypatch.setattr("rag_clip.cli.console.time.monotonic", lambda: next(clock))
    with Console() as console:
        for done in (0, 500, 600, 1000):
            console.report(ProgressEvent("index", done, 2000, "captions"))
        console.report(ProgressEvent("optimise", 0, None, "seconds"))
        console.report(ProgressEvent("optimise", 6, None, "seconds"))
    assert capsys.readouterr().err.splitlines() == [
        "index: 500 of 2000 captions, 50 captions/s, 30 s left",
        "index: 1000 of 2000 captions, 50 captions/s, 20 s left",
        "optimise: 6 seconds",
    ]


def test_on_a_terminal_every_event_rewrites_the_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with Console() as console:
        console.report(ProgressEvent("index", 1, 2, "captions"))
        console.report(ProgressEvent("index", 2, 2, "captions"))
        console.say("done")
    lines = [line.split(",")[0] for line in capsys.readouterr().err.split("\r\x1b[K")]
    assert lines == ["", "index: 1 of 2 captions", "index: 2 of 2 captions"]


def test_results_go_to_standard_output_and_are_dropped_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (False, True):
        with Console(results=not quiet) as console:
            console.say("[bold] 3 captions :cat:")
            console.table("accuracy", {":cat: [b]": {"head": "90.1"}})
    assert capsys.readouterr().out == "[bold] 3 captions :cat:\naccuracy   head\n:cat: [b]  90.1\n"


def test_stages_name_the_bottleneck(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Progress()
    clock.add("read", 1.0)
    clock.add("encode", 2.0)
    clock.add("read", 0.25)
    Console().stages(clock.seconds)
    assert capsys.readouterr().out == "read 1.2 s, encode 2.0 s; bottleneck: encode\n"
    assert clock.bottleneck == "encode"


def test_a_model_that_loads_is_said_with_its_seconds_unless_quiet_or_failed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([0.0, 1.26, 0.0, 9.0, 0.0, 0.5])
    monkeypatch.setattr("time.monotonic", lambda: next(seconds))
    for progress in (True, False):
        with Console(progress=progress) as console, console.loading("the model demo"):
            pass
    assert capsys.readouterr().err == "loading the model demo: 1.3 s\n"
    with pytest.raises(ValueError, match="no model"), Console() as console, console.loading("the model demmo"):
        raise ValueError("no model")
    assert capsys.readouterr().err == ""


def test_the_time_to_the_end_of_the_run_counts_the_stages_that_follow(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 10.0, 20.0, 20.0, 30.0, 40.0, 41.0, 51.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with Console() as console:
        console.plan(("encode", 0.0), ("encode", 0.0), ("write", 0.1))
        for done in (0, 50, 100, 0, 50, 100):
            console.report(ProgressEvent("encode", done, 100))
        console.report(ProgressEvent("write", 0, 100))
        console.report(ProgressEvent("write", 50, 100))
    assert capsys.readouterr().err.splitlines() == [
        "encode: 50 of 100 rows, 5 rows/s, 10 s left; about 40 s to the end",  # 10 + 20 of the second + 10 to write
        "encode: 100 of 100 rows, 5 rows/s, in 20 s; about 30 s to the end",
        "encode: 50 of 100 rows, 5 rows/s, 10 s left; about 20 s to the end",
        "encode: 100 of 100 rows, 5 rows/s, in 20 s; about 10 s to the end",
        "write: 50 of 100 rows, 5 rows/s, 10 s left",
    ]


def test_a_stage_that_spans_the_run_gives_the_time_to_its_end_while_others_pass(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 60.0, 100.0, 100.0, 160.0, 60000.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with Console() as console:
        console.report(ProgressEvent("evaluate", 0, 3, "runs", whole=True))
        console.report(ProgressEvent("encode", 0, 120))
        console.report(ProgressEvent("encode", 120, 120))
        console.report(ProgressEvent("evaluate", 1, 3, "runs", whole=True))
        console.report(ProgressEvent("encode", 0, 120))
        console.report(ProgressEvent("encode", 60, 120))
        console.report(ProgressEvent("evaluate", 2, 3, "runs", whole=True))
    assert capsys.readouterr().err.splitlines() == [
        "encode: 120 of 120 rows, 2 rows/s, in 60 s",
        "evaluate: 1 of 3 runs, 3 min left",
        "encode: 60 of 120 rows, 1 rows/s, 60 s left; 1 of 3 runs, about 5 min to the end",
        "evaluate: 2 of 3 runs, 8.3 h left",
    ]

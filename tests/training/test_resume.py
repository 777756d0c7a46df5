"""A training that was stopped or killed goes on to the same weights; the checkpoint of another is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rag_clip.training.checkpoint import Checkpoint
from rag_clip.training.loop import History, Rows, Schedule, Step, Stream, train

SCHEDULE = Schedule(steps=11, every=3, batch_size=4, rate=0.05, warm_up=2, warm_up_rate=None, accumulate=2, seed=3)
EPOCHS = replace(SCHEDULE, steps=None, epochs=5)  # of two steps each
ROWS = Rows(14)  # batches of 4, 4, 4 and 2
STOPS = (*range(1, 7), 10)  # kept every 2 steps, judged every 2 or 3: six in a row meet every case; and the last step


class StoppedError(Exception):
    """What ends a run of these tests."""


def stream(first: int) -> Iterator[torch.Tensor]:
    """Yield the rows of each batch, which follow from its number."""
    return (torch.arange(4) + 3 * number for number in count(first))


def run(
    path: Path, batches: Rows | Stream[torch.Tensor], schedule: Schedule, *, stop: int = 0, kill: bool = False
) -> tuple[dict[str, torch.Tensor], History]:
    """Train a network with dropout and batch norm, beside a running mean of its weights, perhaps up to a step only.

    Its dropout follows torch's generator; the second round is the best.
    """
    torch.manual_seed(5)
    points = torch.randn(100, 6)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    state, mean = model.state_dict(), torch.zeros(8, 6)
    best = 2 * 2 * (2 if schedule.steps is None else schedule.every)  # batches by the end of the second round

    def after(step: Step) -> None:
        mean.lerp_(state["0.weight"], 0.1)
        if step.number == stop and kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if step.number == stop:
            raise StoppedError

    history = train(
        [*model.parameters(), *model.buffers(), mean],
        lambda rows: (model(points[rows])[:, 0] - points[rows, 0]).square().mean(),
        batches,
        schedule=schedule,
        checkpoint=Checkpoint(path, every=2),
        validate=lambda: -abs(state["1.num_batches_tracked"].item() - best),
        after=after,
    )
    return {**state, "mean": mean}, history


@pytest.mark.parametrize(
    ("batches", "schedule", "optimiser"),
    [(ROWS, EPOCHS, "adamw"), (ROWS, SCHEDULE, "adamw"), (stream, SCHEDULE, "adamw"), (stream, SCHEDULE, "sgd")],
)
def test_a_run_stopped_after_any_step_goes_on_to_the_same_weights(
    tmp_path: Path, batches: Any, schedule: Schedule, optimiser: Any
) -> None:
    schedule = replace(schedule, optimiser=optimiser)
    whole, history = run(tmp_path / "whole", batches, schedule)
    assert history.kept == 2
    assert len(history.losses) == len(history.scores) == (5 if schedule.steps is None else 4)
    for stop in STOPS:
        path = tmp_path / f"stopped-{stop}"
        with pytest.raises(StoppedError):
            run(path, batches, schedule, stop=stop)
        assert path.exists() == (stop > 2)
        again, same_history = run(path, batches, schedule)
        assert same_history == history
        assert [name for name, value in whole.items() if not torch.equal(again[name], value)] == []


def test_a_killed_process_goes_on_and_one_that_had_ended_does_nothing_more(tmp_path: Path) -> None:
    whole, history = run(tmp_path / "whole", stream, SCHEDULE)
    path = tmp_path / "killed"
    code = "import sys, test_resume as t; t.run(t.Path(sys.argv[1]), t.stream, t.SCHEDULE, stop=8, kill=True)"
    killed = subprocess.run([sys.executable, "-c", code, str(path)], cwd=Path(__file__).parent, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [entry.name for entry in tmp_path.iterdir() if "killed" in entry.name] == ["killed"]
    for stop in (0, 1):  # the second has no step left in which to stop
        again, same_history = run(path, stream, SCHEDULE, stop=stop)
        assert same_history == history
        assert [name for name, value in whole.items() if not torch.equal(again[name], value)] == []


def keep(path: Path, *, schedule: Schedule = SCHEDULE, width: int = 2, identity: str = "data 1") -> None:
    value = torch.zeros(width, requires_grad=True)
    checkpoint = Checkpoint(path, identity=identity)
    train([value], lambda _: value.sum(), count, schedule=schedule, checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schedule": replace(SCHEDULE, rate=0.1)}, "rate is 0.05 there, and 0.1 here"),
        ({"schedule": replace(SCHEDULE, steps=12)}, "steps is 11 there, and 12 here"),
        ({"width": 3}, r"tensors is \(2,\) torch.float32 there, and \(3,\) torch.float32 here"),
        ({"identity": "data 2"}, "identity is data 1 there, and data 2 here"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "kept"
    keep(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"kept is the checkpoint of another run: {words}; delete it to begin anew"):
        keep(path, **change)
    assert path.read_bytes() == before


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    for content in (b"", b"not a checkpoint"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="kept is not the checkpoint of a training run; delete it"):
            keep(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match="kept is not the checkpoint of a training run; delete it"):
        keep(path)


def test_a_run_is_kept_every_so_many_steps() -> None:
    with pytest.raises(ValueError, match="cannot keep a run every 0 steps"):
        Checkpoint(Path("kept"), every=0)

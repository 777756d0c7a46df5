"""Checkpoints of the training loop: parameters, optimiser, random generators and history, to resume a killed run.

The file is written atomically (`files/atomic`) and read by torch's weights-only loader.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from rag_clip.files.atomic import replacing

CURE = "delete it to begin anew, or give another path"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Save the run to `path` after every `every` steps and after the last; the caller deletes the file.

    A run resumes only from its own checkpoint. `identity` states what the schedule does not, such as a hash of the
    data. Raises ValueError where `every` is not above zero.
    """

    path: Path
    every: int = 100
    identity: str = ""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"cannot keep a run every {self.every} steps; it must be above zero")


@dataclass(slots=True)
class Run:
    """The state of a run besides its parameters.

    step: steps done.
    losses, scores: mean loss and validation score of each finished round.
    kept: the best round, from 1; 0 for none yet.
    best: the parameter values of that round.
    loss, weight: sums over the current round.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    kept: int = 0
    best: list[torch.Tensor] = field(default_factory=list)
    loss: float = 0.0
    weight: int = 0


def write_run(
    checkpoint: Checkpoint,
    asked: Mapping[str, Any],
    parameters: Sequence[torch.Tensor],
    optimiser: torch.optim.Optimizer,
    run: Run,
) -> None:
    """Save a run, with the state of torch's generators on the CPU and on the devices of its parameters.

    checkpoint: where to save.
    asked: the settings of the run, which must be the same to resume.
    parameters, optimiser, run: the state to save.
    """
    kept = {
        "asked": _identity(checkpoint, asked, parameters),
        "parameters": [value.detach() for value in parameters],
        "optimiser": optimiser.state_dict(),
        "run": {each.name: getattr(run, each.name) for each in fields(run)},
        "cpu": torch.get_rng_state(),
        "gpus": {str(device): torch.cuda.get_rng_state(device) for device in _gpus(parameters)},
    }
    with replacing(checkpoint.path) as partial:
        torch.save(kept, partial)


@torch.no_grad()
def read_run(
    checkpoint: Checkpoint,
    asked: Mapping[str, Any],
    parameters: Sequence[torch.Tensor],
    optimiser: torch.optim.Optimizer,
) -> Run | None:
    """Restore parameters, optimiser and generators in place, and return the run; None where there is no file.

    Parameters are those of `write_run`. Raises ValueError for a file that is not a checkpoint, and for the checkpoint
    of another run.
    """
    if not checkpoint.path.exists():
        return None
    try:
        kept = torch.load(checkpoint.path, map_location="cpu", weights_only=True)
        found = dict(kept["asked"])
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError):
        raise ValueError(f"{checkpoint.path} is not the checkpoint of a training run; {CURE}") from None
    wanted = _identity(checkpoint, asked, parameters)
    for name, value in wanted.items():
        if found.get(name) != value:
            raise ValueError(
                f"{checkpoint.path} is the checkpoint of another run: {name} is {found.get(name)} there, and {value} "
                f"here; {CURE}"
            )
    for value, saved in zip(parameters, kept["parameters"], strict=True):
        value.copy_(saved)
    optimiser.load_state_dict(kept["optimiser"])
    torch.set_rng_state(kept["cpu"])
    for device in _gpus(parameters):
        if str(device) in kept["gpus"]:
            torch.cuda.set_rng_state(kept["gpus"][str(device)], device)
    return Run(**kept["run"])


def _identity(checkpoint: Checkpoint, asked: Mapping[str, Any], parameters: Sequence[torch.Tensor]) -> dict[str, Any]:
    shapes = "; ".join(f"{tuple(value.shape)} {value.dtype}" for value in parameters)
    return {"identity": checkpoint.identity, **asked, "tensors": shapes}


def _gpus(parameters: Sequence[torch.Tensor]) -> list[torch.device]:
    return sorted({value.device for value in parameters if value.device.type == "cuda"}, key=str)

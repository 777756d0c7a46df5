"""Checkpoints in the layouts that people have: wrapped, compiled, with arguments, whole, TorchScript; nothing runs."""

import argparse
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rag_clip.models.checkpoint import read_checkpoint

STATE = {"visual.proj": torch.arange(6.0).view(2, 3), "logit_scale": torch.tensor(4.5)}


class Tower(torch.nn.Module):
    """A module of its own code, with what the archives of OpenAI hold beside weights."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).half()
        self.scale = torch.nn.Parameter(torch.ones([]))
        self.register_buffer("attn_mask", torch.zeros(2, 2), persistent=False)
        self.register_buffer("context_length", torch.tensor(77))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.visual[0](rows) * self.scale


class Malicious:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def equal(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in state)


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in STATE.items()}


LAYOUTS = {
    "alone": STATE,
    "distributed": {"epoch": 3, "state_dict": prefixed("module.")},
    "compiled": prefixed("_orig_mod."),
    "compiled and distributed": {"model": prefixed("module._orig_mod."), "step": 7},
    "a compiled tower": {"visual._orig_mod.proj": STATE["visual.proj"], "logit_scale": STATE["logit_scale"]},
    "deepspeed": {"module": STATE, "lr_scheduler": None},
    "lightning": {"state_dict": prefixed("model."), "hyper_parameters": argparse.Namespace(path=Path("x"))},
    "arguments": {"state_dict": STATE, "args": argparse.Namespace(lr=1e-3), "best": np.float64(0.5)},
    "optimizer": {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "state_dict": STATE, "scaler": {}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_models_weights_are_found_in_each_layout(layout, tmp_path):
    torch.save(LAYOUTS[layout], tmp_path / "file.pt")
    assert equal(read_checkpoint(tmp_path / "file.pt"), STATE)


def test_old_layouts_and_safetensors_are_read(tmp_path):
    content = {"state_dict": STATE, "args": argparse.Namespace(lr=1e-3)}
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(prefixed("module."), tmp_path / "file.safetensors")
    assert equal(read_checkpoint(tmp_path / "old.pt"), STATE)
    assert equal(read_checkpoint(tmp_path / "file.safetensors"), STATE)


def test_a_model_saved_whole_gives_its_state_without_constants(tmp_path):
    model = Tower()
    torch.save({"model": model}, tmp_path / "whole.pt")
    expected = {name: value for name, value in model.state_dict().items() if name != "context_length"}
    assert equal(read_checkpoint(tmp_path / "whole.pt"), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_archive_gives_its_weights_in_its_dtypes(tmp_path):
    model = Tower().eval()
    torch.jit.trace(model, torch.ones(1, 2).half()).save(str(tmp_path / "archive.pt"))
    state = read_checkpoint(tmp_path / "archive.pt")
    expected = {name: value for name, value in model.state_dict().items() if name != "context_length"}
    assert equal(state, expected)
    assert state["visual.0.weight"].dtype == torch.float16


def test_a_call_in_a_checkpoint_is_replaced_by_nothing(tmp_path):
    call = Malicious(eval, f"open({str(tmp_path / 'executed')!r}, 'w')")
    torch.save({"state_dict": STATE, "args": call}, tmp_path / "file.pt")
    assert equal(read_checkpoint(tmp_path / "file.pt"), STATE)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("function", [os.system, Path.touch])
def test_what_the_weights_only_loader_refuses_is_not_executed(function, tmp_path):
    target = tmp_path / "executed"
    call = Malicious(function, f"touch {target}" if function is os.system else target)
    torch.save({"state_dict": STATE, "args": call}, tmp_path / "file.pt")
    with pytest.raises(ValueError, match=r"weights-only loader refuses it .*; open it where it was made"):
        read_checkpoint(tmp_path / "file.pt")
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty; copy it again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS, not the weights; run `git lfs pull`"),
        (b"<html>" * 300, "weights-only loader refuses it .*Unsupported operand 60.*; open it where it was made"),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_the_cure(content, reason, tmp_path):
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_checkpoint(tmp_path / "file.pt")


def test_a_damaged_file_and_one_without_a_model_are_refused(tmp_path):
    torch.save(STATE, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:700])
    (tmp_path / "bad.safetensors").write_bytes(b"<html>" * 300)
    torch.save({"optimizer": {"state": {0: torch.ones(2)}}}, tmp_path / "optimizer.pt")
    for name, reason in (
        ("cut.pt", "no checkpoint of PyTorch, or a damaged one"),
        ("bad.safetensors", "no safetensors file, or a damaged one"),
        ("optimizer.pt", r"holds no weights of a model, but \['optimizer'\]; open it where"),
    ):
        with pytest.raises(ValueError, match=reason):
            read_checkpoint(tmp_path / name)

"""What the type check of `make check` refuses; it runs them with the cache of mypy warm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from inputs.folders import ROOT


def wrong_lines(program: Path) -> dict[int, list[str]]:
    """Return the kinds of the errors that mypy finds in each line of a program."""
    command = [str(ROOT / ".ci/types"), str(Path(sys.executable).parent / "mypy"), str(program)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    faults = [line for line in result.stdout.splitlines() if program.name in line and "error:" in line]
    wrong: dict[int, list[str]] = {}
    for line in faults:
        wrong.setdefault(int(line.split(":")[1]), []).append(line.rpartition("[")[2].rstrip("]"))
    return wrong


@pytest.mark.slow
def test_a_wrong_call_of_a_job_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "wrong_call.py"
    program.write_text(
        "from rag_clip.index import __doc__ as words\n"
        "from rag_clip.pipelines.captions import build_index\n"
        'x: int = build_index("wrong", nonsense=3)\n'
        "y: str | None = words\n"
    )
    assert wrong_lines(program) == {3: ["call-arg", "assignment"]}


@pytest.mark.slow
def test_a_test_set_is_refused_where_something_chooses_or_trains(tmp_path: Path) -> None:
    program = tmp_path / "mistake.py"
    program.write_text(
        "from rag_clip.classifiers.tip_adapter import TipAdapterSettings\n"
        "from rag_clip.classifiers.zero_shot import ZeroShot\n"
        "from rag_clip.data import Support, Validation\n"
        "from rag_clip.evaluation.protocol import draw_shots, inner_split\n"
        "from rag_clip.evaluation.splits import Test, Train\n"
        "def right(text: ZeroShot, support: Support, train: Train, validation: Validation) -> None:\n"
        "    TipAdapterSettings().build(text, support, validation=validation)\n"
        "    draw_shots(train, shots=1, seed=0)\n"
        "def wrong(text: ZeroShot, support: Support, test: Test) -> None:\n"
        "    TipAdapterSettings().build(text, support, validation=test)\n"
        "    draw_shots(test, shots=1, seed=0)\n"
        "    inner_split(test)\n"
    )
    assert wrong_lines(program) == {10: ["arg-type"], 11: ["arg-type"], 12: ["arg-type"]}

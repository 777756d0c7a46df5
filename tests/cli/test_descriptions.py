"""Descriptions given on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inputs.command_line import run
from rag_clip.files.prompts import read_prompts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "labels.txt").write_text("red kite\nblue tit\n")
    (tmp_path / "sentences.json").write_text(json.dumps({"red kite": ["a large bird with a forked tail"]}))
    return tmp_path


def test_sentences_have_half_of_the_weight_and_a_class_without_is_named(folder: Path) -> None:
    arguments = ["enhance", "labels.txt", "--recipe", "templates", "--model", "demo"]
    found = run(*arguments, "--descriptions", "sentences.json", "-o", "prompts.parquet", folder=folder)
    assert found.code == 0, found.errors
    assert "sentences.json describes no 'blue tit'" in found.out
    kite, tit = read_prompts(folder / "prompts.parquet").texts
    assert sum(text.weight for text in kite if text.source != "template") == pytest.approx(0.5)
    assert {text.source for text in tit} == {"template"}


def test_a_missing_file_and_too_much_weight_are_refused(folder: Path) -> None:
    arguments = ["enhance", "labels.txt", "--model", "demo", "-o", "prompts.parquet"]
    missing = run(*arguments, "--recipe", "templates", "--descriptions", "none.json", folder=folder)
    assert missing.code == 1
    assert "none.json" in missing.errors
    heavy = run(*arguments, "--recipe", "default", "--descriptions", "sentences.json", folder=folder)
    assert heavy.code == 1
    assert "they may weigh at most 1" in heavy.errors
    own = run(
        *arguments[:-1], "sentences.json", "--recipe", "templates", "--descriptions", "sentences.json", folder=folder
    )
    assert own.code == 1
    assert json.loads((folder / "sentences.json").read_text()) == {"red kite": ["a large bird with a forked tail"]}

"""The manual beside its pages of jobs: the notebook runs, messages are those of the program, pictures are small."""

from __future__ import annotations

import ast
import json
import re
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from inputs.folders import ROOT

DOCS = ROOT / "docs"
MOST_BYTES = 1_000_000
PAGES = [path.read_text() for path in (ROOT / "docs" / "troubleshooting.md",)]
MESSAGES = [message for page in PAGES for message in re.findall(r"^### `(.+)`$", page, re.M)]


def said_in(tree: ast.AST) -> set[str]:
    """Return the texts of a module; what is filled in is an ellipsis."""
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            texts.add("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values))
    return texts


SAID = {
    text
    for folder in ("rag_clip", "pipelines")
    for path in (ROOT / folder).rglob("*.py")
    for text in said_in(ast.parse(path.read_text()))
}


@pytest.mark.parametrize("message", MESSAGES)
def test_every_message_of_the_page_on_troubles_is_said_by_the_program(message: str) -> None:
    assert any(message in text for text in SAID)


def test_the_cells_of_the_notebook_run_in_order(tmp_path: Path) -> None:
    cells = json.loads((DOCS / "notebook.ipynb").read_text())["cells"]
    found: dict[str, Any] = {}
    with chdir(tmp_path):
        for cell in cells:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), found)
    assert found["accuracy"]["captions"] >= found["accuracy"]["templates"]
    assert {"classes.html", "classifier.npz"} <= {path.name for path in tmp_path.iterdir()}


def test_the_pictures_of_the_manual_are_small_and_each_is_shown() -> None:
    pictures = {path.name: path.stat().st_size for path in (DOCS / "images").glob("*.png")}
    assert sum(pictures.values()) < MOST_BYTES
    shown = {name for page in DOCS.glob("*.md") for name in re.findall(r"\(images/([\w-]+\.png)\)", page.read_text())}
    assert shown == set(pictures)

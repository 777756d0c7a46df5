"""Verbs that compute nothing do not import torch, whose import takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from rag_clip.classifiers.head_list import heads_of_table, listed_heads
from rag_clip.cli import VERBS
from rag_clip.store import caption_id, create_store, load_schema
from rag_clip.testing import ToyEncoder

SCRIPT = """
import sys
from rag_clip.cli import app

print(app(sys.argv[1:], result_action="return_value"), "torch" in sys.modules)
"""
EVERY_HELP = """
import sys
from rag_clip.cli import VERBS, app

for verb in ["", *VERBS]:
    app([*verb.split(), "--help"], result_action="return_value")
print(None, "torch" in sys.modules)
"""


def last_line(script: str, *arguments: str, folder: Path) -> str:
    command = [sys.executable, "-c", script, *arguments]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    return ran.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made, encoder = tmp_path_factory.mktemp("without-torch"), ToyEncoder()
    captions = ["a red kite", "a blue kite"]
    with create_store(made / "index", schema=load_schema(), encoder=encoder.fingerprint, dim=encoder.dim) as store:
        columns = {
            "id": [caption_id("toy", text) for text in captions],
            "text": captions,
            "source": ["toy"] * 2,
            "vector": pa.array(list(encoder.encode_text(captions).numpy()), pa.list_(pa.float32())),
        }
        store.upsert(pa.RecordBatch.from_pydict(columns))
    return made


def test_the_help_of_every_verb(folder: Path) -> None:
    assert len(VERBS) > 15
    assert last_line(EVERY_HELP, folder=folder) == "None False"


@pytest.mark.parametrize(
    "arguments",
    [
        ["heads", "--quiet"],
        ["heads", "--json"],
        ["index", "info", "index"],
        ["search", "index", "--text", "red kite", "--mode", "lexical"],
        ["search", "index", "--text", "kite", "--where", "source=toy"],
    ],
)
def test_what_only_lists_or_looks_for_words(arguments: list[str], folder: Path) -> None:
    assert last_line(SCRIPT, *arguments, folder=folder) == "0 False"


def test_the_list_of_heads_is_the_table_of_heads() -> None:
    """If it is not, run `python -m rag_clip.classifiers.head_list`."""
    assert listed_heads() == json.loads(json.dumps(heads_of_table()))
    assert list(listed_heads()) == list(heads_of_table())

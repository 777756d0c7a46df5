"""No verb waits for a named pipe in the place of a file that it reads. A verb without a row in READ fails here."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import FrameType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_clip.cli import VERBS, app
from rag_clip.data import LabelSet
from rag_clip.files.prompts import write_prompts
from rag_clip.prompts.templates import template_prompts

MODEL = "--model local-dir:weights"
PROMPTS = "--prompts prompts.parquet"
HEAD = "--head ridge --head-options [options.toml] --support [support.parquet] --validation [validation.parquet]"
READ = {
    "index build": [f"[captions.jsonl] --index new {MODEL} --schema [schema.toml] --cleaning [rules.toml]"],
    "index embed": [f"[captions.csv] --shards new {MODEL} --cleaning [rules.toml]:own"],
    "index load": ["shards --index new --schema [schema.toml]"],
    "index info": ["[index/card.json]"],
    "index check": ["[index/card.json]"],
    "index copy": ["[index/card.json] new"],
    "index snapshot": ["[index/card.json] -o new.snapshot"],
    "index restore": ["[images.parquet] --index new"],
    "index plan": ["--captions 10 --model demo --schema [schema.toml]"],
    "index images": [f"[images.parquet] --index new {MODEL}", f"[cat.png] --index new {MODEL}"],
    "index download": ["[urls.csv] -o new", "[urls.txt] -o new"],
    "enhance": [
        f"[labels.{kind}] -o new.parquet {MODEL} --recipe [recipe.toml] --compare [images.parquet]"
        for kind in ("txt", "toml", "json", "parquet")
    ],
    "classify": [f"[images.parquet] --prompts [prompts.parquet] -o new.parquet {MODEL} {HEAD}"],
    "learn": [f"[support.parquet] --prompts [prompts.parquet] -o new.safetensors {MODEL} --options [options.toml]"],
    "evaluate": [
        f"[images.parquet] --labels [labels.txt] --prompts [prompts.json] -o new.parquet {MODEL}",
        f"[features.npz] {PROMPTS} {MODEL} -o new.parquet",
        f"[task.toml] {PROMPTS} -o new.parquet {MODEL}",
        "--compare [before.parquet] after.parquet",
        "--compare before.parquet [after.parquet]",
    ],
    "explain": [
        f"cat --image [cat.png] --prompts prompts.json {MODEL}",
        f"cat --prompts [prompts.json] {MODEL}",
        f"--images [cat.png] {PROMPTS} {MODEL}",
        f"cat {PROMPTS} --before [before.parquet] {MODEL}",
        f"--image cat.png {PROMPTS} --support [support.parquet] {MODEL}",
    ],
    "adapt": [f"[images.parquet] -o new {MODEL}", f"images.parquet -o new --settings [options.toml] {MODEL}"],
    "discover": [
        f"[images.parquet] --index index -o new.toml {MODEL}",
        f"images.parquet --index index --prompts [prompts.json] -o new.toml {MODEL}",
    ],
    "segment": [f"[images.parquet] --prompts [prompts.json] --truth [before.parquet] -o new.parquet {MODEL}"],
    "merge": [
        f"weights --patch [images.parquet] [prompts.json] --supported images.parquet prompts.json -o new {MODEL}",
        f"weights --patch cat.png prompts.json --supported [validation.parquet] [prompts.parquet] -o new {MODEL}",
    ],
    "export": [f"[prompts.json] -o new.npz {MODEL}", f"prompts.json -o new.npz {MODEL} --support [support.parquet]"],
    "search": ["index --image [cat.png]"],
    "support shots": [f"[images.parquet] --labels [labels.txt] -o new.parquet {MODEL}"],
    "support retrieve": [f"[prompts.parquet] --index index -o new.parquet {MODEL}"],
    "support merge": ["[support.parquet] [validation.parquet] -o new.parquet"],
    "support corrections": [
        f"[urls.csv] --images images.parquet {PROMPTS} -o new.parquet {MODEL}",
        f"urls.csv --images [images.parquet] {PROMPTS} -o new.parquet {MODEL}",
        f"urls.csv --images images.parquet --prompts [prompts.parquet] -o new.parquet {MODEL}",
    ],
    "support evidence": ["[support.parquet] [validation.parquet] -o new.safetensors"],
    "support synthesise": [f"[prompts.parquet] -o new.parquet --painter demo {MODEL}"],
}
READ_NOTHING = {"heads", "demo", "serve"}
COMMANDS = [(verb, command) for verb, commands in READ.items() for command in commands]
SENTENCE = "is a pipe, a socket or a device, which is not read; write its content to a file"


@contextmanager
def ending() -> Iterator[None]:
    """Raise where the block takes a minute: it waits for what never comes."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError("the verb waits for the pipe")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with what is read before the file that is a pipe."""
    table = pa.table({"image": [b"1", b"2"], "label": ["cat", "dog"]})
    for name in ("images", "support", "validation", "before", "after"):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    prompts = template_prompts(LabelSet(("cat", "dog")))
    for name in ("prompts.parquet", "prompts.json"):
        write_prompts(prompts, tmp_path / name)
    for name in ("index", "shards", "weights"):
        (tmp_path / name).mkdir()
    texts = {
        "labels.txt": "cat\ndog\n",
        "labels.json": '["cat", "dog"]',
        "labels.toml": 'labels = ["cat", "dog"]',
        "recipe.toml": "[templates]\nset = 'general'\n",
        "rules.toml": "[default]\n[own]\n",
        "options.toml": "",
        "captions.jsonl": '{"caption": "a cat"}\n',
        "captions.csv": "caption\na cat\n",
        "schema.toml": Path("index/captions.toml").read_text(),
        "index/card.json": "{}",
        "shards/card.json": "{}",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    pq.write_table(pa.table({"name": ["cat", "dog"]}), tmp_path / "labels.parquet")
    return tmp_path


def test_every_verb_has_a_row() -> None:
    assert READ.keys() | READ_NOTHING == VERBS.keys()


@pytest.mark.parametrize(("verb", "command"), COMMANDS)
def test_a_pipe_in_the_place_of_a_file_ends_in_a_sentence(verb: str, command: str, folder: Path) -> None:
    for name in [word.partition("]")[0] for word in command.split("[")[1:]]:
        kept = folder / "kept"
        if (folder / name).exists():
            (folder / name).rename(kept)
        os.mkfifo(folder / name)
        words = command.replace("[index/card.json]", "index").replace("[", "").replace("]", "").split()
        said = StringIO()
        with chdir(folder), redirect_stdout(said), redirect_stderr(said), ending():
            code = app([*verb.split(), *words], result_action="return_value")
        assert (code, said.getvalue().splitlines()[-1].partition(name)[2]) == (1, f" {SENTENCE}"), (
            name,
            said.getvalue(),
        )
        (folder / name).unlink()
        if kept.exists():
            kept.rename(folder / name)

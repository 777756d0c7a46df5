"""`enhance --labels-from`: classes taken from labelled images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.command_line import run
from inputs.photographs import photographs
from rag_clip.files.prompts import read_prompts


def enhance(folder: Path, *arguments: str) -> tuple[int, str]:
    made = run("enhance", *arguments, "--recipe", "templates", "--model", "demo", "-o", "p.parquet", folder=folder)
    return made.code, made.errors


def write(path: Path, labels: Sequence[object], names: tuple[str, ...] = (), column: str = "label") -> Path:
    table = pa.table({"image": photographs(len(labels)), column: labels})
    feature = {column: {"_type": "ClassLabel", "names": list(names)}} if names else {}
    metadata = {"huggingface": json.dumps({"info": {"features": feature}})}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


@pytest.mark.parametrize(
    ("labels", "names", "expected", "ids"),
    [
        ([1, 0], ("red", "blue", "unseen"), ("red", "blue", "unseen"), ("0", "1", "2")),
        (["red", "blue", "red"], (), ("blue", "red"), ("blue", "red")),
        ([["red", "sea"], ["blue"]], (), ("blue", "red", "sea"), ("blue", "red", "sea")),
    ],
    ids=["ClassLabel", "names", "lists"],
)
def test_classes_are_those_of_the_images(
    tmp_path: Path, labels: Sequence[object], names: tuple[str, ...], expected: tuple[str, ...], ids: tuple[str, ...]
):
    write(tmp_path / "in.parquet", labels, names)
    code, said = enhance(tmp_path, "--labels-from", "in.parquet")
    assert code == 0, said
    made = read_prompts(tmp_path / "p.parquet").labels
    assert (made.names, made.ids) == (expected, ids)


def test_the_column_may_be_named_and_the_images_compared(tmp_path: Path):
    write(tmp_path / "in.parquet", [1, 0], ("red", "blue"), "fine")
    code, said = enhance(
        tmp_path, "--labels-from", "in.parquet:fine", "--compare", "in.parquet", "--label-column", "fine"
    )
    assert code == 0, said
    assert read_prompts(tmp_path / "p.parquet").labels.names == ("red", "blue")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give the classes in one way: a label file, or --labels-from IMAGES"),
        (("labels.txt", "--labels-from", "in.parquet"), "give the classes in one way"),
        (("--labels-from", "in.parquet"), "column 'label' of in.parquet has numbers without names, such as 0"),
        (("--labels-from", "in.parquet:fine"), "in.parquet has no column 'fine' of labels; it has image, label"),
        (("--labels-from", "nosuch://bucket/in.parquet"), "Protocol not known: nosuch"),
    ],
)
def test_classes_that_cannot_be_taken_are_refused(tmp_path: Path, arguments: tuple[str, ...], message: str):
    write(tmp_path / "in.parquet", [0, 1])
    code, said = enhance(tmp_path, *arguments)
    assert (code, message in said) == (1, True), said

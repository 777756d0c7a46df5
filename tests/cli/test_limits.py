"""`--limit`: the first classes, the first rows."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.command_line import run
from inputs.photographs import photographs
from rag_clip.data import LabelSet
from rag_clip.demo.concepts import concepts
from rag_clip.files.labels import first_classes
from rag_clip.files.prompts import read_prompts

NAMES = [concept.name for concept in concepts()[:4]]
OPTIONS = ("--recipe", "templates", "--model", "demo")
CLASSIFY = ("--prompts", "all.json", "--model", "demo")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four classes, their prompts, and six images in two files."""
    folder = tmp_path_factory.mktemp("limits")
    (folder / "labels.txt").write_text("\n".join(NAMES) + "\n")
    images = photographs(6)
    for name, first in (("a", 0), ("b", 3)):
        rows = {"image": images[first : first + 3], "number": list(range(first, first + 3))}
        pq.write_table(pa.table(rows), folder / f"{name}.parquet")
    assert run("enhance", "labels.txt", *OPTIONS, "-o", "all.json", folder=folder).code == 0
    return folder


def test_enhance_tries_the_first_classes_and_says_so(folder: Path) -> None:
    made = run("enhance", "labels.txt", *OPTIONS, "--limit", 2, "-o", "two.json", folder=folder)
    assert made.out.startswith("a trial with the first 2 of 4 classes (--limit)\ntwo.json: 2 classes, 2 texts")
    assert read_prompts(folder / "two.json").labels.names == tuple(NAMES[:2])
    whole = run("enhance", "labels.txt", *OPTIONS, "--limit", 4, "-o", "four.json", folder=folder)
    assert whole.out.startswith("four.json: 4 classes")


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit: int, folder: Path) -> None:
    made = run("enhance", "labels.txt", *OPTIONS, f"--limit={limit}", "-o", "none.json", folder=folder)
    assert (made.code, made.errors) == (1, f"rag-clip: the limit is {limit} classes; give at least 1\n")
    done = run("classify", "a.parquet", *CLASSIFY, f"--limit={limit}", "-o", "none.parquet", folder=folder)
    said = done.errors.splitlines()[-1]  # the model loads first
    assert (done.code, said) == (1, f"rag-clip: the limit is {limit} rows; give at least 1")


def test_a_limit_beside_a_comparison_is_refused(folder: Path) -> None:
    options = (*OPTIONS, "--limit", 2, "--compare", "a.parquet", "-o", "none.json")
    made = run("enhance", "labels.txt", *options, folder=folder)
    assert (made.code, made.errors) == (1, "rag-clip: --compare needs all classes; leave out --limit\n")


@pytest.mark.parametrize("limit", [1, 3, 4, 9])
def test_classify_writes_the_first_rows_as_a_whole_run_does(limit: int, folder: Path) -> None:
    files = ("a.parquet", "b.parquet")
    run("classify", *files, *CLASSIFY, "-o", "all.parquet", folder=folder)
    done = run("classify", *files, *CLASSIFY, "--limit", limit, "-o", "some.parquet", "--json", folder=folder)
    assert (done.code, json.loads(done.out)["rows"]) == (0, min(limit, 6))
    whole, some = (pq.read_table(folder / f"{name}.parquet") for name in ("all", "some"))
    expected, same = whole.slice(0, limit), ["image", "number", "label", "error"]
    assert some.select(same).to_pylist() == expected.select(same).to_pylist()
    assert some["score"].to_pylist() == pytest.approx(expected["score"].to_pylist(), abs=1e-5)


def test_a_trial_leaves_the_features_of_a_whole_run_as_they_are(folder: Path) -> None:
    options = (*CLASSIFY, "--features", "features", "--json")
    run("classify", "a.parquet", *options, "-o", "all.parquet", folder=folder)
    tried = run("classify", "a.parquet", *options, "--limit", 2, "-o", "some.parquet", folder=folder)
    again = run("classify", "a.parquet", *options, "-o", "all.parquet", folder=folder)
    assert [json.loads(one.out)["from_cache"] for one in (tried, again)] == [0, 3]


def test_the_first_classes_keep_what_is_known_of_them() -> None:
    labels = LabelSet(("a", "b"), ids=("1", "2"), synonyms=(("x",), ()), groups=("g", "h"), templates=("the {}",))
    assert first_classes(labels, 1) == LabelSet(
        ("a",), ids=("1",), synonyms=(("x",),), groups=("g",), templates=("the {}",)
    )

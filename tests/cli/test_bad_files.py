"""Files that people have: what works with them, or one sentence and exit code 1; never a trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.command_line import run
from inputs.photographs import photographs
from rag_clip.files.support import read_support

DEMO = ("--model", "demo", "--workers", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs with lists of labels, and with one label each; labels and prompts."""
    folder = tmp_path_factory.mktemp("files")
    several = [["red"], ["red", "blue"], ["blue"], ["red"], ["blue"], []]
    for place, labels in (("several", several), ("single", ["red", "blue"] * 3)):
        (folder / place).mkdir()
        pq.write_table(pa.table({"image": photographs(6), "label": labels}), folder / place / "t.parquet")
    (folder / "labels.txt").write_text("red\nblue\n")
    assert run("enhance", "labels.txt", "--recipe", "templates", *DEMO[:2], "-o", "p.parquet", folder=folder)[0] == 0
    return folder


def test_shots_are_drawn_of_lists_of_labels_each_image_for_all_of_its_own(folder: Path) -> None:
    options = ("--labels", "labels.txt", "-k", 1, "--views", 0, "-o", "s.parquet", "--validation", "v.parquet", *DEMO)
    code, out, _ = run("support", "shots", "several/t.parquet", *options, "--json", folder=folder)
    facts = json.loads(out)
    assert (code, facts["classes"], facts["missing"], facts["short"]) == (0, 2, [], {})
    table = pq.read_table(folder / "several/t.parquet").to_pylist()
    drawn: list[set[int]] = []
    for name in ("s.parquet", "v.parquet"):
        support = read_support(folder / name)
        rows = [int(reference.rpartition("#")[2]) for reference in support.references]
        assert [[label in table[row]["label"] for label in ("red", "blue")] for row in rows] == support.targets.tolist()
        drawn.append(set(rows))
    assert not drawn[0] & drawn[1]
    given = ("--prompts", "p.parquet", "--support", "s.parquet", "--validation", "v.parquet", *DEMO)
    assert (
        run("classify", "single/t.parquet", *given, "--head", "linear_probe", "-o", "o.parquet", folder=folder)[0] == 0
    )
    code, _, errors = run("classify", "single/t.parquet", *given, "--head", "ridge", "-o", "r.parquet", folder=folder)
    assert (code, errors.splitlines()[-1][:65]) == (
        1,
        "rag-clip: the support set has images with several labels, and thi",
    )


def test_prompts_are_compared_by_precision_where_images_have_several_labels(folder: Path) -> None:
    asked = ("enhance", "labels.txt", "--recipe", "templates", *DEMO[:2], "-o", "c.parquet", "--compare")
    code, out, _ = run(*asked, "several/t.parquet", "--json", folder=folder)
    scores = json.loads(out)["compared"]["templates"]
    assert (code, list(scores)) == (0, ["eleven_points", "plain"])
    measured = ("several/t.parquet", "--prompts", "c.parquet", "-o", "e.parquet", *DEMO, "--json")
    (found,) = json.loads(run("evaluate", *measured, folder=folder)[1])["runs"]
    assert scores["plain"] == pytest.approx(100 * found["measures"]["map"][0], abs=1e-6)
    assert "mean average precision, %  eleven points  plain\n" in run(*asked, "several/t.parquet", folder=folder)[1]


def test_results_of_another_metric_are_not_compared(folder: Path) -> None:
    for place in ("several", "single"):
        options = ("--prompts", "p.parquet", "-o", f"{place}.parquet", *DEMO)
        assert run("evaluate", f"{place}/t.parquet", *options, folder=folder)[0] == 0
    code, out, errors = run("evaluate", "--compare", "single.parquet", "several.parquet", folder=folder)
    assert (code, out) == (1, "")
    assert errors == (
        "rag-clip: the files measure nothing in common: t | p is judged by accuracy in the first, by map_11_point in "
        "the second; measure both by one metric\n"
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.csv", "caption,url,caption\na red flag,http://example.org/1,flag\n"),
        ("c.tsv", "caption\tid\tcaption\na red flag\t1\tflag\n"),
    ],
)
def test_a_column_of_captions_that_stands_twice_is_named(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    code, out, errors = run("index", "build", name, "--index", "i", "--model", "demo", folder=tmp_path)
    assert (code, out) == (1, "")
    assert errors.endswith(f"{name} has two columns 'caption'; rename one, or name another column for text\n")


def test_another_column_may_stand_twice(tmp_path: Path) -> None:
    (tmp_path / "c.tsv").write_text("id\tid\tcaption\n1\t1\ta red flag\n2\t2\ta blue flag on a pole\n")
    code, out, _ = run("index", "embed", "c.tsv", "--shards", "s", "--model", "demo", "--json", folder=tmp_path)
    assert (code, json.loads(out)["kept"]) == (0, 2)


@pytest.fixture(scope="module")
def measured(folder: Path) -> Path:
    """The folder with r.parquet, the results of one run."""
    options = ("--prompts", "p.parquet", "-o", "r.parquet", *DEMO)
    assert run("evaluate", "single/t.parquet", *options, folder=folder)[0] == 0
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tier": "T9"}, "the run 'p' begins with 'accuracy' and is of tier 'T9', so its rows were changed"),
        ({"metric": "x"}, "the run 'p' begins with 'x' and is of tier 'T0', so its rows were changed"),
        (
            {"settings": "{}"},
            r"the settings of the run 'p' are damaged (2 validation errors for RunSettings task Field",
        ),
        ({"settings": "["}, "the settings of the run 'p' are damaged (is not valid JSON"),
        ({"low": None, "high": 0.5}, "r.parquet has only one end of the interval in row 1; it was changed after"),
        ({"value": None}, "r.parquet has no 'value' in row 1; delete the row, or fill it in; it was changed after"),
    ],
)
def test_results_that_were_changed_are_refused(measured: Path, change: dict[str, Any], message: str) -> None:
    table = pq.read_table(measured / "r.parquet")
    rows = [row | change for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), measured / "changed-r.parquet")
    code, out, errors = run("evaluate", "--compare", "changed-r.parquet", "r.parquet", folder=measured)
    assert (code, out) == (1, "")
    assert message in errors


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scale": [1.0, 2.0]}, r"pets.npz: `scale` is float64 (2,); give one number"),
        ({"classes": [1, 2, 3]}, r"pets.npz: `classes` is int64 (3,); give a list of texts"),
        ({"label": 0}, "pets.npz: `image` is (4, 3) and `label` (); give rows of both, one per image"),
        ({"label": [0.5, 1, 2, 1]}, "pets.npz: `label` holds float64 values; give numbers of classes, or their names"),
        ({"image": [["a"]] * 4}, "pets.npz: features hold <U1 values; give numbers"),
    ],
)
def test_features_of_other_types_are_said_in_a_line(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    arrays: dict[str, Any] = {"image": np.eye(4)[:, :3] + 1, "label": [0, 1, 2, 1], "classes": ["cat", "dog", "cow"]}
    rows: dict[str, Any] = {name: np.asarray(values) for name, values in {**arrays, **changed}.items()}
    np.savez(tmp_path / "pets.npz", **rows)
    code, out, errors = run("evaluate", "pets.npz", "-o", "r.parquet", folder=tmp_path)
    assert (code, out) == (1, "")
    assert errors.startswith(f"rag-clip: {message}")

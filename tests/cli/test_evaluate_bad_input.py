"""`rag-clip evaluate` on files that are wrong: one line that says what was found and what to do, and no results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.command_line import run
from inputs.masks import write_masks

EYE = np.eye(3)


def write_pets(folder: Path, **changed: Any) -> None:
    """Write features of four images of three classes, of which the last is taken for another."""
    arrays: dict[str, Any] = {
        "image": EYE[[0, 1, 2, 0]],
        "label": [0, 1, 2, 1],
        "classes": ["cat", "dog", "cow"],
        "text": EYE[None],
    }
    np.savez(folder / "pets.npz", **arrays | {"templates": ["a {}"], "scale": 100.0} | changed)


def write_labels(folder: Path, groups: dict[str, str]) -> None:
    items = [{"name": name, **({"group": group} if group else {})} for name, group in groups.items()]
    (folder / "labels.json").write_text(json.dumps({"labels": items}))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"label": [0, 1, 2, 3]}, r"pets.npz: labels lie in [0, 3] for 3 classes; count them from 0"),
        ({"label": ["cat", "dog", "cow", "pig"]}, "pets.npz: 1 label not among the 3 classes, such as 'pig'"),
        (
            {"image": np.full((4, 3), np.nan)},
            "pets.npz: 4 rows of features that are zero or not finite, the first is row 0",
        ),
        ({"text": np.full((1, 3, 3), -np.inf)}, "pets.npz: 3 rows of features that are zero or not finite"),
        ({"scale": np.nan}, "the encoder's scale is nan; give exp of its logit scale, a finite number above 0"),
        ({"scale": -1.0}, "the encoder's scale is -1.0; give exp of its logit scale"),
    ],
)
def test_features_that_are_wrong_are_said_in_a_line(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    write_pets(tmp_path, **changed)
    code, out, errors = run("evaluate", "pets.npz", "-o", "r.parquet", folder=tmp_path)
    assert (code, out) == (1, "")
    assert errors.startswith(f"rag-clip: {message}")
    assert not (tmp_path / "r.parquet").exists()


@pytest.mark.parametrize("check", [False, True], ids=["evaluate", "check"])
def test_groups_that_do_not_cover_the_classes_are_said_before_anything_is_measured(tmp_path: Path, check: bool) -> None:
    write_pets(tmp_path)
    write_labels(tmp_path, {"cat": "pet", "dog": "pet", "cow": ""})
    code, out, errors = run(
        "evaluate",
        "pets.npz",
        "--labels",
        "labels.json",
        "-o",
        "r.parquet",
        *(["--check"] if check else []),
        folder=tmp_path,
    )
    assert code == 1
    said = out if check else errors
    assert said.startswith("pets: labels: " if check else "rag-clip: pets: ")
    assert "1 class without a group, such as 'cow'" in said
    assert not (tmp_path / "r.parquet").exists()


def measures(folder: Path) -> dict[str, list[float]]:
    code, out, _ = run("evaluate", "pets.npz", "--labels", "labels.json", "-o", "r.parquet", "--json", folder=folder)
    assert code == 0
    found: dict[str, list[float]] = json.loads(out)["runs"][0]["measures"]
    return found


def test_one_group_is_measured_without_openness(tmp_path: Path) -> None:
    write_pets(tmp_path)
    write_labels(tmp_path, dict.fromkeys(["cat", "dog", "cow"], "animal"))
    found = measures(tmp_path)
    assert found["accuracy"][0] == 0.75
    assert not {"acc_c", "acc_e", "acc_s"} & found.keys()


def test_classes_and_groups_without_images_are_in_no_mean(tmp_path: Path) -> None:
    write_pets(tmp_path, image=EYE[[0, 0]], label=[0, 1])
    write_labels(tmp_path, {"cat": "pet", "dog": "pet", "cow": "farm"})
    found = measures(tmp_path)
    assert [found[name][0] for name in ("accuracy", "mean_per_class", "acc_c", "acc_e", "acc_s")] == [0.5] * 5


def test_text_that_does_not_tell_classes_apart_gets_nothing_right(tmp_path: Path) -> None:
    write_pets(tmp_path, text=np.ones((1, 3, 3)))
    write_labels(tmp_path, {"cat": "pet", "dog": "pet", "cow": "farm"})
    found = measures(tmp_path)
    # A cow is alone in its group, and nothing else can be said there.
    numbers = [found[name][0] for name in ("accuracy", "mean_per_class", "acc_c", "acc_e", "acc_s")]
    assert numbers == [0.0, 0.0, 0.5, 0.25, 0.0]


def results_file(folder: Path, facts: str, table: pa.Table | None = None) -> None:
    held = pa.table({"task": ["pets"]}) if table is None else table
    pq.write_table(held.replace_schema_metadata({"rag_clip.results": facts}), folder / "other.parquet")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with r.parquet, the results of one run."""
    folder = tmp_path_factory.mktemp("measured")
    write_pets(folder)
    assert run("evaluate", "pets.npz", "-o", "r.parquet", folder=folder)[0] == 0
    return folder


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            '{"format": 99, "version": "9.0"}',
            "other.parquet has format 99 of rag-clip 9.0, and this version reads format",
        ),
        ("{broken", "other.parquet is not a results file of format"),
        ("[]", "other.parquet is not a results file of format"),
        ("", "other.parquet has no column 'run'; it has task; it was changed after it was written, so evaluate again"),
    ],
)
def test_results_of_another_version_or_changed_ones_are_not_compared(measured: Path, facts: str, message: str) -> None:
    own = pq.read_schema(measured / "r.parquet").metadata[b"rag_clip.results"].decode()
    results_file(measured, facts or own)
    code, out, errors = run("evaluate", "--compare", "r.parquet", "other.parquet", folder=measured)
    assert (code, out) == (1, "")
    assert errors.startswith(f"rag-clip: {message}")


def test_runs_of_another_version_are_measured_again(tmp_path: Path) -> None:
    write_pets(tmp_path)
    assert run("evaluate", "pets.npz", "-o", "r.parquet", folder=tmp_path)[0] == 0
    (kept,) = [path for path in (tmp_path / "r.parquet.runs").iterdir() if "images" not in path.name]
    pq.write_table(pq.read_table(kept).replace_schema_metadata({"rag_clip.results": '{"format": 99}'}), kept)
    code, out, _ = run("evaluate", "pets.npz", "-o", "r.parquet", "--json", folder=tmp_path)
    assert (code, json.loads(out)["measured"], json.loads(out)["found"]) == (0, 1, 0)
    (images,) = (tmp_path / "r.parquet.runs").glob("*.images.parquet")
    images.write_bytes(b"broken")
    code, out, errors = run("evaluate", "--compare", "r.parquet", "r.parquet", folder=tmp_path)
    assert (code, out) == (1, "")
    assert f"{images.name} is not a readable Parquet file (" in errors
    assert json.loads(run("evaluate", "pets.npz", "-o", "r.parquet", "--json", folder=tmp_path)[1])["measured"] == 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--prompts", "p.json"), "--prompts"),
        (("--head", "ridge"), "the options of heads"),
        (("--labels", "labels.txt"), "the options of tasks"),
        (("--refine",), "--refine"),
        (("--check",), "--check"),
        (("--index", "index"), "--index"),
    ],
)
def test_retrieval_refuses_the_options_that_it_would_ignore(
    tmp_path: Path, options: tuple[str, ...], named: str
) -> None:
    np.savez(tmp_path / "pairs.npz", image=EYE, caption_feature=EYE)
    code, _, said = run("evaluate", "pairs.npz", "--retrieval", *options, folder=tmp_path)
    assert code == 1
    assert f"has no use for {named}; leave it out" in said
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.npz"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("a.parquet", "--model", "demo"), "--segmentation compares masks and has no use for --model; leave it out"),
        (("a.parquet", "--captioning"), "--segmentation compares masks and has no use for --captioning; leave it out"),
        (("a.parquet", "b.parquet"), "--segmentation compares one file of masks; 2 are given"),
        (("truth.parquet", "-o", "truth.parquet"), "truth.parquet is one of the inputs"),
    ],
)
def test_masks_refuse_what_they_have_no_use_for(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    write_masks(tmp_path / "truth.parquet")
    code, _, errors = run("evaluate", *options, "--segmentation", "truth.parquet", folder=tmp_path)
    assert code == 1
    assert said in errors
    assert [path.name for path in tmp_path.iterdir()] == ["truth.parquet"]

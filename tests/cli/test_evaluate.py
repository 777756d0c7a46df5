"""`rag-clip evaluate` as its users meet it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from inputs.command_line import run
from inputs.tasks import value
from rag_clip.cli.console import Console
from rag_clip.cli.evaluate import rank_runs, saying_results
from rag_clip.data import LabelSet
from rag_clip.evaluation.results import Measure, read_results
from rag_clip.files.prompts import write_prompts
from rag_clip.models.open_clip import load_encoder
from rag_clip.progress import ProgressEvent
from rag_clip.prompts.templates import template_prompts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with features of four images of two classes, and text that gets three of them right."""
    folder = tmp_path_factory.mktemp("evaluate")
    eye = np.eye(2)
    np.savez(
        folder / "pets.npz", image=eye[[0, 1, 0, 1]], label=[0, 1, 0, 0], classes=["cat", "dog"], text=eye[None],
        templates=["a {}"], scale=100.0,
    )  # fmt: skip
    return folder


def test_results_stream_and_a_page_lies_beside_them(folder: Path) -> None:
    code, out, errors = run("evaluate", "pets.npz", "-o", "r.parquet", folder=folder)
    assert code == 0
    assert out.startswith("pets | a {} [T0]  top-1 75.0% [25.0%, 100.0%]  per class 83.3% ")
    assert "[T0] used class names, templates and written knowledge\n" in out
    assert "r.parquet: 1 run measured, 0 there already\nreport: r.html\n" in out
    assert re.fullmatch(r"evaluate: 1 of 1 runs, in \d+ s\n", errors)
    assert "<h1>Evaluation</h1>" in (folder / "r.html").read_text()
    code, out, _ = run("evaluate", "pets.npz", "-o", "r.parquet", "--json", folder=folder)
    facts = json.loads(out)
    assert (code, facts["measured"], facts["found"]) == (0, 0, 1)
    assert facts["runs"][0]["measures"]["accuracy"] == [0.75, 0.25, 1.0]


def test_above_twenty_runs_the_console_says_a_ranking(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = read_results(folder / "r.parquet")[0]
    runs = [
        replace(one, run=f"run {place}", measures=(Measure("accuracy", "", place / 100),)) for place in range(1, 24)
    ]
    console = Console()
    report = saying_results(console)
    for number, each in enumerate(runs, start=1):
        report(ProgressEvent("evaluate", number, len(runs), "runs", item=each))
    rank_runs(console, runs)
    said = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in said[:20]] == [f"pets | run {place} [T0]" for place in range(1, 21)]
    assert said[20:23] == [
        "further runs are only in the ranking below and in the report",
        "pets: the best of 23 runs, and the last",
        "  1. run 23 [T0]  top-1 23.0%",
    ]
    assert said[-1] == "  23. run 1 [T0]  top-1 1.0%"


def test_shifted_tasks_are_compared_with_the_first(folder: Path) -> None:
    with np.load(folder / "pets.npz") as arrays:
        np.savez(folder / "drawn.npz", **{**arrays, "label": [1, 1, 0, 0]})
    words = ["pets.npz", "drawn.npz", "--shifted-from", "pets", "-o", "shifted.parquet", "--json"]
    code, out, _ = run("evaluate", *words, folder=folder)
    assert code == 0
    (row,) = json.loads(out)["robustness"]
    assert (row["first"], row["shifted"], row["effective"], row["baseline"]) == (0.75, 0.5, 0.0, True)
    assert "75.0% on pets, 50.0% shifted" in run("evaluate", *words[:-1], folder=folder).out
    code, _, errors = run("evaluate", *words[:2], "--shifted-from", "x", "-o", "none.parquet", folder=folder)
    assert code == 1
    assert "there is no task 'x' to be shifted from; the tasks are pets, drawn" in errors


def test_two_results_files_are_compared(folder: Path) -> None:
    for name in ("before", "after"):
        assert run("evaluate", "pets.npz", "-o", f"{name}.parquet", folder=folder)[0] == 0
    code, out, _ = run(
        "evaluate", "--compare", "before.parquet", "after.parquet", "--report", "page.html", folder=folder
    )
    assert code == 0
    assert "pets | a {} [T0]" in out
    assert "paired: +0.0% [+0.0%, +0.0%], 0 images gained, 0 lost, probability 1 if neither were better" in out
    assert "<h1>Comparison</h1>" in (folder / "page.html").read_text()


def test_names_that_would_take_images_are_found_and_those_of_classes_left_out(tmp_path: Path) -> None:
    encoder, labels = load_encoder("demo", device="cpu"), LabelSet(("card", "die"), templates=("a {}",))
    write_prompts(template_prompts(labels), tmp_path / "plain.parquet")
    rows = encoder.encode_text(["a card", "a flag"]).numpy()
    np.savez(tmp_path / "toys.npz", image=rows, label=["card", "card"], classes=["card", "die"])
    (tmp_path / "words.txt").write_text("cards\nflag\nqqqqq\n")
    job = ("toys.npz", "--prompts", "plain.parquet", "--model", "demo", "-o", "r.parquet")
    code, out, _ = run("evaluate", *job, "--names", "words.txt", folder=tmp_path)
    assert (code, "certified 50.0%" in out) == (0, True)
    assert "3 names from words.txt, 1 left out as names of classes of toys\n" in out
    found = read_results(tmp_path / "r.parquet")[0]
    assert set(found.series("adversarial_name")) == {"flag", "qqqqq"}
    assert [value(found, metric) for metric in ("accuracy", "certified")] == [1.0, 0.5]
    assert found.series("adversarial_name")["flag"] == 0.5


def test_a_text_on_several_tasks_has_its_mean_over_them(folder: Path) -> None:
    (folder / "more").mkdir()
    eye = np.eye(2)
    np.savez(
        folder / "more" / "cars.npz", image=eye[[0, 1]], label=[0, 1], classes=["a", "b"], text=eye[None],
        templates=["a {}"], scale=100.0,
    )  # fmt: skip
    _, out, _ = run("evaluate", "pets.npz", "more/cars.npz", "-o", "mean.parquet", folder=folder)
    assert "a {}: mean of 2 tasks 87.5%\n" in out


def test_check_says_what_is_missing_and_ends_with_one(folder: Path) -> None:
    code, out, errors = run("evaluate", "elevater/eurosat", "--check", folder=folder)
    assert (code, "there is no file" in out) == (1, True)
    assert errors.endswith("problems in 1 task; fix them and check again\n")
    assert run("evaluate", "pets.npz", "--check", folder=folder)[:2] == (0, "1 task can be evaluated\n")
    code, out, _ = run("evaluate", "pets.npz", "--check", "--head", "ridge", "--shots", "1", "3", "all", folder=folder)
    assert (code, out) == (
        1,
        "pets: no train split, from which all images would be drawn; name one, or give a number of shots\n"
        "pets: test: 2 classes with no image left beside 3 shots: 'cat' (3), 'dog' (1)\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is nothing to evaluate on; give labelled images, features or tasks"),
        (("--compare", "r.parquet"), "--compare needs two results files, before and after; found 1"),
        (("--compare", "a.parquet", "b.parquet"), "there is no results file a.parquet"),
        (
            ("pets.npz", "--names", "gone.txt"),
            "there is no file gone.txt; give a word list, a label file, captions",
        ),
        (("pets.npz", "--head", "ridge"), "the head 'ridge' needs a support file"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    code, out, errors = run("evaluate", *arguments, folder=folder)
    assert (code, out) == (1, "")
    assert errors.startswith(f"rag-clip: {message}")


def test_prompts_that_fit_no_task_are_named(tmp_path: Path) -> None:
    for names in (("card", "die"), ("cat", "dog", "cow")):
        write_prompts(template_prompts(LabelSet(names, templates=("a {}",))), tmp_path / f"{names[0]}.parquet")
    rows = load_encoder("demo", device="cpu").encode_text(["a card", "a die"]).numpy()
    np.savez(tmp_path / "toys.npz", image=rows, label=["card", "die"], classes=["card", "die"])
    job = ("toys.npz", "--prompts", "card.parquet", "cat.parquet", "--model", "demo", "-o", "r.parquet")
    code, out, _ = run("evaluate", *job, folder=tmp_path)
    assert (code, out.splitlines()[0]) == (0, "cat.parquet is not evaluated: no task has its 3 classes")
    assert [one.run for one in read_results(tmp_path / "r.parquet")] == ["card"]


def test_images_that_cannot_be_used_are_told_with_the_first_reason(tmp_path: Path) -> None:
    labels, image = LabelSet(("card", "die"), templates=("a {}",)), BytesIO()
    write_prompts(template_prompts(labels), tmp_path / "plain.parquet")
    Image.new("RGB", (48, 48), "red").save(image, format="PNG")
    table = pa.table({"image": [image.getvalue(), b"none", b""], "label": ["card", "die", "die"]})
    pq.write_table(table, tmp_path / "toys.parquet")
    job = ("toys.parquet", "--prompts", "plain.parquet", "--model", "demo", "-o", "r.parquet", "--workers", "0")
    code, out, _ = run("evaluate", *job, folder=tmp_path)
    assert code == 3
    assert "\n2 images of toys cannot be used, such as row 1: not an image of a known format" in out
    code, out, _ = run("evaluate", *job, folder=tmp_path)
    assert (code, "\n2 images of toys cannot be used" in out, "1 there already" in out) == (3, True, True)

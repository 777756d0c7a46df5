"""The demo on a cut of the bundled world: its table, its files, its page, and a second call."""

from __future__ import annotations

import json
import re
import shlex
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import polars as pl
import pyarrow.parquet as pq
import pytest

from inputs.command_line import run
from inputs.number_checks import near
from rag_clip.cli import app
from rag_clip.data import LabelSet
from rag_clip.demo.concepts import concepts
from rag_clip.files.labels import write_labels
from rag_clip.models.open_clip import load_encoder
from rag_clip.pipelines.demo import METHODS, DemoSummary, Score, run_demo, score_bands, write_bundled
from rag_clip.protocols import Encoder


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("demo", device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled files cut to twelve concepts, four of each band, and the captions that speak of them."""
    folder = tmp_path_factory.mktemp("demo")
    write_bundled(folder)
    chosen = [c for band in ("head", "tail", "unseen") for c in [c for c in concepts() if c.band == band][:4]]
    names = [concept.name for concept in chosen]
    labels = LabelSet(tuple(names), groups=tuple(concept.group for concept in chosen), templates=("a photo of {}",))
    write_labels(labels, folder / "labels.json")
    truth = pl.read_parquet(folder / "truth.parquet").filter(pl.col("concept").is_in(names))
    corpus = pl.read_parquet(folder / "corpus.parquet").join(truth.select("id"), on="id")
    corpus.write_parquet(folder / "corpus.parquet")
    for name in ("test", "validation"):
        table = pq.read_table(folder / f"{name}.parquet", filters=[("label", "in", names)])
        pq.write_table(table, folder / f"{name}.parquet")
    return folder


@pytest.fixture(scope="module")
def summary(folder: Path, encoder: Encoder) -> DemoSummary:
    return run_demo(folder, encoder=encoder)


def test_the_table_has_every_method_and_band(summary: DemoSummary) -> None:
    assert list(summary.table) == list(METHODS)
    assert all(list(row) == ["head", "tail", "unseen", "all"] for row in summary.table.values())
    assert list(summary.cells()["templates"]) == ["head", "tail", "unseen", "all"]


def test_retrieval_helps_unseen_names_and_random_captions_do_not(summary: DemoSummary) -> None:
    unseen = {name: row["unseen"].mean for name, row in summary.table.items()}
    assert unseen["retrieved"] > unseen["templates"] + 20
    assert unseen["retrieved"] > unseen["random"] + 20


def test_the_facts_say_what_was_measured(summary: DemoSummary) -> None:
    assert summary.facts.startswith("108 photographs, 12 names, ")


def test_all_that_the_demo_made_is_in_its_folder(summary: DemoSummary, folder: Path) -> None:
    made = {f"{kind}-{name}.parquet" for kind in ("prompts", "predictions") for name in METHODS}
    assert made | {"index", "report.html", "classes.html"} <= {path.name for path in folder.iterdir()}
    assert [path.name for path in folder.iterdir() if path.name.endswith(".parts")] == []


def test_the_page_stands_alone_and_shows_the_table(summary: DemoSummary, folder: Path) -> None:
    page = (folder / "report.html").read_text().replace("\u00a0", " ")
    assert all(cell in page for row in summary.cells().values() for cell in row.values())
    assert "http" not in page


def test_the_page_has_a_card_for_each_example_that_leads_to_its_classes(summary: DemoSummary, folder: Path) -> None:
    page, classes = ((folder / name).read_text() for name in ("report.html", "classes.html"))
    found = re.findall(
        r'<li class="card"><img alt="a photograph of (.+?)" src="data:image/jpeg;base64,.+?</li>', page, re.S
    )
    names = {json.loads(f'"{name}"') for name in re.findall(r'"name":"(.+?)"', classes)}
    linked = {unquote(name) for name in re.findall(r'href="classes.html#(.+?)"', page)}
    assert (len(found), set(found) <= names, linked <= names, len(names)) == (12, True, True, 12)


def test_the_commands_of_the_next_step_are_understood(summary: DemoSummary, folder: Path, tmp_path: Path) -> None:
    page = (folder / "report.html").read_text()
    commands = [line for block in re.findall(r"<pre>(.+?)</pre>", page, re.S) for line in block.splitlines()]
    assert [command.split()[:2] for command in commands] == [
        ["rag-clip", verb] for verb in ("explain", "index", "enhance", "classify")
    ]
    for command in commands:
        _, _, unused = app.parse_args(shlex.split(unescape(command))[1:], exit_on_error=False, print_error=False)
        assert unused == {}
    assert run(*shlex.split(unescape(commands[0]))[1:], folder=tmp_path).code == 0


def test_a_second_call_gives_the_same_table_and_encodes_no_caption_again(
    summary: DemoSummary, folder: Path, encoder: Encoder
) -> None:
    again = run_demo(folder, encoder=encoder)
    assert (again.table, again.captions) == (summary.table, summary.captions)


def test_a_score_is_the_mean_and_sample_deviation_over_seeds(tmp_path: Path) -> None:
    head = next(c.name for c in concepts() if c.band == "head")
    unseen = next(c.name for c in concepts() if c.band == "unseen")
    rows = [(head, head, 0), (unseen, None, 0), (head, head, 1), (unseen, unseen, 1)]
    table = pl.DataFrame(rows, schema=["label", "predicted_label", "seed"], orient="row")
    table.write_parquet(tmp_path / "predictions.parquet")
    scores = score_bands(tmp_path / "predictions.parquet", bands=("head", "unseen"))
    assert scores["head"] == Score(100.0, 0.0)
    assert scores["unseen"] == Score(50.0, near(70.710678))
    assert scores["all"] == Score(75.0, near(35.355339))

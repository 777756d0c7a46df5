"""Prompts that unlabelled images choose while they are made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from inputs.command_line import run as command
from inputs.pictures import noisy_pictures, write_images
from inputs.stores import fill_index
from rag_clip.data import LabelSet
from rag_clip.files.prompts import read_prompts
from rag_clip.pipelines.enhance import enhance, enhance_labels
from rag_clip.pipelines.running import Running
from rag_clip.pipelines.unlabelled import Unlabelled
from rag_clip.progress import Progress, ProgressEvent
from rag_clip.prompts.enhance import enhance as find_prompts
from rag_clip.prompts.enhance import enhance_rivals, rival_recipes
from rag_clip.prompts.recipe import Recipe, load_recipe
from rag_clip.prompts.retrieval import Retrieval
from rag_clip.prompts.templates import GENERAL
from rag_clip.store import open_store
from rag_clip.testing import ToyEncoder

ENCODER = ToyEncoder()
LABELS = LabelSet(("zorp", "blick", "quux"))
CAPTIONS = [
    f"the {size} {name} there is a {colour} thing"
    for size in ("big", "small", "new", "old")
    for name, colour in (("zorp", "red"), ("blick", "green"), ("quux", "blue"))
]
RECIPE = Recipe(
    "mine",
    retrieved=Retrieval(search="lexical", keep="phrase", names="dropped", contrast="weigh", weight=0.95, trust="known"),
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_index(tmp_path_factory.mktemp("store") / "index", CAPTIONS, ENCODER)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    pictures, names = noisy_pictures(300)
    return write_images(tmp_path / "images.parquet", pictures, label=names)


def test_images_choose_captions_where_names_say_nothing(index: Path, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "prompts.parquet"
    unlabelled = Unlabelled(images, tmp_path / "features")
    summary = enhance_labels(
        LABELS, output=output, encoder=ENCODER, recipe=RECIPE, index=index, images=unlabelled, running=Running(0)
    )
    facts = read_prompts(output).provenance["chosen"]
    assert facts["images"] == 300
    assert facts["best"] in ("captions", "mine")
    assert set(facts["scores"]) == {"templates", "names", "captions", "mine"}
    assert summary.provenance["notes"][0].startswith("300 images chose the texts of templates for ")
    alone = enhance(LABELS, encoder=ENCODER, recipe=replace(RECIPE, retrieved=captions_rule()), index=index)
    for row, group in enumerate(read_prompts(output).texts):
        if LABELS.names[row] not in facts["changed"]:
            assert [text.text for text in group] == [text.text for text in alone.texts[row]]
    assert any((tmp_path / "features").iterdir())


def captions_rule() -> Retrieval:
    assert RECIPE.retrieved is not None
    return replace(RECIPE.retrieved, trust="evidence")


def test_labels_of_the_images_are_not_read(index: Path, images: Path, tmp_path: Path) -> None:
    pictures, names = noisy_pictures(300)
    other = write_images(tmp_path / "other.parquet", pictures, label=names[::-1])
    chosen = [enhance(LABELS, encoder=ENCODER, recipe=RECIPE, index=index, images=place) for place in (images, other)]
    assert chosen[0].texts == chosen[1].texts
    assert chosen[0].provenance == chosen[1].provenance


def test_rivals_of_a_recipe() -> None:
    assert set(rival_recipes(load_recipe("default"), LABELS)) == {"templates", "names", "captions", "default"}
    assert rival_recipes(load_recipe("default"), LABELS)["templates"].templates.texts == GENERAL
    own = LabelSet(LABELS.names, templates=("see the {}",))
    assert rival_recipes(load_recipe("default"), own)["templates"].templates.texts == ("see the {}",)
    assert list(rival_recipes(load_recipe("repe"), LABELS)) == ["templates", "repe"]
    assert list(rival_recipes(load_recipe("templates"), LABELS)) == ["templates"]


@pytest.mark.parametrize("names", ["dropped", "kept"])
def test_rivals_equal_their_recipes_and_are_retrieved_once(index: Path, names: str) -> None:
    events: list[ProgressEvent] = []
    assert RECIPE.retrieved is not None
    recipe = replace(RECIPE, retrieved=replace(RECIPE.retrieved, names=names))
    with open_store(index) as store:
        progress = Progress(report=events.append)
        rivals = enhance_rivals(LABELS, encoder=ENCODER, recipe=recipe, store=store, progress=progress)
        for name, rival in rival_recipes(recipe, LABELS).items():
            assert rivals[name] == find_prompts(LABELS, encoder=ENCODER, recipe=rival, store=store)
    ends = [event for event in events if event.stage == "retrieve" and event.done == event.total]
    assert len(ends) == (1 if names == "dropped" else 2)


def test_the_command_chooses_and_says_so(images: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    arguments = ["enhance", "labels.txt", "--recipe", "templates", "--model", "demo", "--workers", "0"]
    found = command(*arguments, "--images", images.name, "-o", "prompts.parquet", folder=tmp_path)
    assert found.code == 0, found.errors
    assert "\n  \n" not in found.out  # a single candidate: nothing was chosen, and nothing is said of it
    refused = command(*arguments, "--features", "kept", "-o", "other.parquet", folder=tmp_path)
    assert refused.code == 1
    assert "--features keeps the features of --images" in refused.errors
    own = command(*arguments, "--images", images.name, "-o", images.name, "--force", folder=tmp_path)
    assert own.code == 1
    assert pq.read_table(images).num_rows == 300

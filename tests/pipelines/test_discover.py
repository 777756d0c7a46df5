"""`discover`: names for images without labels, as a label file."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from inputs.command_line import run as command
from inputs.pictures import colour_prompts, noisy_pictures, picture, write_images
from inputs.stores import fill_index
from rag_clip.classifiers.match import Scoring
from rag_clip.classifiers.novelty import OpenWorld
from rag_clip.data import LabelSet
from rag_clip.display import counted
from rag_clip.files.labels import read_labels
from rag_clip.files.prompts import write_prompts
from rag_clip.images.opening import Images
from rag_clip.models.open_clip import load_encoder
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.discover import DiscoverSummary, Naming, discover
from rag_clip.pipelines.explore_names import explore_names
from rag_clip.pipelines.running import Running
from rag_clip.prompts.templates import template_prompts
from rag_clip.testing import ToyEncoder

ENCODER = ToyEncoder()
NAMES = {"zorp": "red", "blick": "green", "quux": "blue"}
CAPTIONS = [
    f"{number}: the {name} there is a {colour} thing \u2028 \x07"
    for number in range(20)
    for name, colour in NAMES.items()
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_index(tmp_path_factory.mktemp("store") / "index", CAPTIONS, ENCODER)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    names = [colour for colour in NAMES.values() for _ in range(30)]
    pictures = [picture(colour, size=(7 + row % 4, 9 + row % 7)) for row, colour in enumerate(names)]
    return write_images(tmp_path / "images.parquet", [*pictures, b"broken"], label=[*names, "none"])


def found(images: Path | Images, index: Path, **settings: Any) -> DiscoverSummary:
    return discover(images, index=index, encoder=ENCODER, running=Running(0), **settings)


def test_names_become_a_label_file_with_what_speaks_for_them(images: Path, index: Path, tmp_path: Path) -> None:
    summary = found(images, index, output=tmp_path / "labels.toml", naming=Naming(least=10))
    assert (summary.rows, summary.failed, summary.sampled) == (91, 1, 90)
    said = {word for one in summary.names for word in one.name.split(" ")}
    assert all({name, colour} & said for name, colour in NAMES.items())
    assert sum(one.images for one in summary.names) == pytest.approx(90, abs=0.5)
    assert read_labels(tmp_path / "labels.toml") == summary.labels
    text = (tmp_path / "labels.toml").read_text()
    assert text.startswith("# made by rag-clip discover\n")
    assert f"such as rows {summary.names[0].rows[0]}" in text
    assert "\x07" not in text


def test_rows_count_over_all_files_and_skip_none(images: Path, index: Path, tmp_path: Path) -> None:
    alone = found(images, index, naming=Naming(least=10))
    pictures, names = noisy_pictures(3)
    first = write_images(tmp_path / "first.parquet", pictures, label=names)
    both = discover([first, images], index=index, encoder=ENCODER, running=Running(0), naming=Naming(least=10))
    assert both.rows == alone.rows + 3
    assert {row for one in both.names for row in one.rows} <= set(range(93))
    assert any(row - 3 in one.rows for one in alone.names for other in both.names for row in other.rows)


def test_present_classes_keep_their_images(images: Path, index: Path, tmp_path: Path) -> None:
    every = found(images, index, naming=Naming(least=10))
    prompts = template_prompts(LabelSet(tuple(NAMES.values())))
    write_prompts(prompts, tmp_path / "p.parquet")
    beside = found(images, index, prompts=tmp_path / "p.parquet", naming=Naming(least=10))
    assert every.names
    assert {one.name for one in beside.names} & set(NAMES.values()) == set()
    assert sum(one.images for one in beside.names) < sum(one.images for one in every.names)
    assert all(set(one.takes) <= set(NAMES.values()) for one in beside.names)


def test_names_are_found_for_the_rows_that_predictions_rejected_and_no_others(
    images: Path, index: Path, tmp_path: Path
) -> None:
    prompts = colour_prompts("green", "blue")
    for rejects in (False, True):  # by the novelty of the file, and by labels that are missing
        world = OpenWorld(["red", "white"], threshold=0.5, reject=rejects)
        settings: dict[str, Any] = {"prompts": prompts, "encoder": ENCODER, "running": Running(0)}
        opened = classify(images, output=tmp_path / "out.parquet", scoring=Scoring(open_world=world), **settings)
        table = pq.read_table(opened.output)
        novel = [row for row, value in enumerate(table["predicted_novelty"].to_pylist()) if (value or 0) > 0.5]
        assert set(range(30)) <= set(novel) < set(range(90))
        assert table["predicted_label"].null_count == (len(novel) if rejects else 0) + 1
        summary = found(images, index, predictions=opened.output, naming=Naming(least=10))
        assert (summary.rows, summary.failed, summary.rejected, summary.sampled) == (91, 1, len(novel), len(novel))
        assert {row for one in summary.names for row in one.rows} <= set(novel)
        assert sum(one.images for one in summary.names) == pytest.approx(len(novel), abs=0.5)
        assert "of 91, 1 failed" in str(summary)
    some = found(images, index, predictions=opened.output, naming=Naming(least=2, sample=10))
    assert (some.sampled, some.rejected) == (10, len(novel))
    assert sum(one.images for one in some.names) == pytest.approx(len(novel), abs=0.5)
    limited = found(Images(images, limit=20), index, predictions=opened.output, naming=Naming(least=2))
    assert (limited.rows, limited.rejected) == (20, 20)


def test_predictions_of_other_images_or_without_a_rejected_row_are_refused(
    images: Path, index: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"prompts": colour_prompts(), "encoder": ENCODER, "running": Running(0)}
    plain = classify(images, output=tmp_path / "plain.parquet", **settings)
    with pytest.raises(
        ValueError, match=r"plain\.parquet rejects none of 91 rows; classify with --open, or leave it out"
    ):
        found(images, index, predictions=plain.output)
    world = Scoring(open_world=OpenWorld(["pink"], threshold=0.0))
    few = classify(Images(images, limit=9), output=tmp_path / "few.parquet", scoring=world, **settings)
    with pytest.raises(ValueError, match="has 9 rows, and there are 91 images; give the images that it was made of"):
        found(images, index, predictions=few.output)
    with pytest.raises(ValueError, match=r"images\.parquet has no predictions; write them with `rag-clip classify"):
        found(images, index, predictions=images)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        found(images, index, predictions=tmp_path / "gone.parquet")


def test_a_part_of_the_images_speaks_for_all(images: Path, index: Path) -> None:
    part, first = (found(images, index, naming=Naming(least=5, sample=size, most=1)) for size in (30, 5_000))
    assert (part.sampled, first.sampled) == (30, 90)
    assert part.names[0].images + part.left * 30 == pytest.approx(90, abs=1)
    assert (len(first.names), first.left) == (1, 2)


@pytest.mark.parametrize("settings", [{"least": 0}, {"most": 0}, {"sample": -1}, {"least": float("nan")}])
def test_settings_below_one_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is .*; give at least 1"):
        Naming(**settings)


def test_what_cannot_be_used_is_refused(images: Path, index: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"would be TOML; give it the suffix \.toml"):
        found(images, index, output=tmp_path / "labels.json")
    with pytest.raises(ValueError, match="was built"):
        discover(images, index=index, encoder=ToyEncoder(dim=16), running=Running(0))
    broken = write_images(tmp_path / "broken.parquet", [b"broken"])
    with pytest.raises(ValueError, match="none of 1 image could be read"):
        found(broken, index)
    (tmp_path / "mine.toml").write_text("labels = []")
    with pytest.raises(ValueError, match="was not written by `rag-clip discover`"):
        found(images, index, output=tmp_path / "mine.toml")


def test_a_page_shows_the_images_and_captions_of_each_name(images: Path, index: Path, tmp_path: Path) -> None:
    prompts = template_prompts(LabelSet(("<b>red</b>", *list(NAMES.values())[1:])))
    summary = found(images, index, prompts=prompts, naming=Naming(least=2))
    place = explore_names(summary, images, output=tmp_path / "names.html", running=Running(0))
    page = place.read_text()
    rows = [row for one in summary.names for row in one.rows]
    assert re.findall(r"<figcaption>row (\d+)</figcaption>", page) == [str(row) for row in rows]
    assert page.count('src="data:image/jpeg;base64,') == len(rows) > 0
    for one in summary.names:
        assert f"<bdi>{one.name}</bdi> <small>about {counted(round(one.images), 'image')}</small>" in page
        assert html.escape(one.captions[0], quote=True).replace("&#x27;", "&#39;") in page
    assert "<b>red" not in page
    assert "http" not in page
    explore_names(summary, images, output=place, running=Running(0))
    (tmp_path / "mine.html").write_text("mine")
    for wrong, said in (("mine.html", "was not written by"), ("page.txt", "a page is an .html file")):
        with pytest.raises(ValueError, match=said):
            explore_names(summary, images, output=tmp_path / wrong, running=Running(0))
    few = write_images(tmp_path / "few.parquet", [picture("red")])
    with pytest.raises(ValueError, match="the images have 1; give the same images"):
        explore_names(summary, few, output=place, running=Running(0))
    nothing = found(images, index, naming=Naming(least=1000))
    explore_names(nothing, images, output=place, running=Running(0))
    assert "No phrase of the captions explains enough images" in place.read_text()


def test_the_verb_keeps_features_and_replaces_its_own_file(tmp_path: Path) -> None:
    index = fill_index(tmp_path / "index", CAPTIONS, load_encoder("demo", device="cpu"))
    pictures, _ = noisy_pictures(12)
    write_images(tmp_path / "images.parquet", pictures)
    asked = ["discover", "images.parquet", "--index", index.name, "--features", "features", "-o", "labels.toml"]
    for _ in range(2):
        made = command(*asked, "--least", "1", "--workers", "0", "--html", "names.html", folder=tmp_path)
        assert made.code == 0, made.errors
        assert "page: names.html" in made.out
        assert "next: edit labels.toml, then rag-clip enhance labels.toml --index index" in made.out
    assert list((tmp_path / "features").iterdir())
    none = command(*asked, "--least", "1000", "--workers", "0", folder=tmp_path)
    assert (none.code, "lower --least" in none.out) == (0, True)

"""The report of an evaluation: one page, whole in itself, with what changed and the evidence for it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from inputs.results import COUNTS, SETTINGS
from inputs.tasks import ENCODER, colour_task, prompt_files, provenance
from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.evaluation.results import Measure, Result
from rag_clip.evaluation.settings import HeadFacts, PromptFacts
from rag_clip.files.prompts import write_prompts
from rag_clip.pipelines.evaluate import evaluate
from rag_clip.pipelines.running import Running
from rag_clip.report.class_charts import draw_confusions, draw_gains
from rag_clip.report.evaluation import write_evaluation
from rag_clip.report.examples import find_changes
from rag_clip.report.shown import choose_shown

GROWTH = (
    "How accuracy changes as the vocabulary grows",
    "How far the label is ahead",
    "Which classes take whose images",
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, ...]:
    folder = tmp_path_factory.mktemp("report")
    return evaluate(
        [colour_task(folder)],
        prompts=prompt_files(folder),
        output=folder / "r.parquet",
        encoder=ENCODER,
        running=Running(0),
    ).results


def test_the_page_is_whole_in_itself_and_names_runs_tiers_and_what_was_tuned(
    results: tuple[Result, ...], tmp_path: Path
) -> None:
    write_evaluation(tmp_path / "report.html", results, encoder=ENCODER, title="Red & blue")
    page = (tmp_path / "report.html").read_text()
    assert "<title>Red &amp; blue</title>" in page
    assert "6 images; 3 classes in 2 groups." in page
    assert "<th>minus good</th>" in page
    assert re.findall(r"<h3>(.*?)</h3>", page) == [
        *GROWTH,
        "How reliable the probabilities are",
        "Which classes are confused",
    ]
    confused = re.findall(r'<img alt="a photograph of (\w+)" src="data:image/jpeg;base64,.*?called (\w+)</span>', page)
    assert confused == [("red", "blue")]
    assert "bad is right on 0 images that good got wrong, and wrong on 2 that it got right: -33.3%" in page
    assert "The runs have different tiers: " in page
    assert "Nothing was tuned: the settings are those of the recipe as given." in page
    assert re.findall(r'src="(?!data:)|href=|url\(|@import', page) == []
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_page_that_cannot_be_written_is_named(results: tuple[Result, ...], tmp_path: Path) -> None:
    (tmp_path / "no folder").write_text("")
    with pytest.raises(ValueError, match=r"page\.html cannot lie in .*no folder, which is a file; name another place"):
        write_evaluation(tmp_path / "no folder" / "page.html", results)


def test_the_same_results_give_the_same_page(results: tuple[Result, ...], tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_evaluation(tmp_path / name, results)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_examples_are_those_that_changed_with_the_captions_of_the_new_answer(results: tuple[Result, ...]) -> None:
    good, bad = results
    lost = find_changes(good, bad, encoder=ENCODER).lost
    assert [(one.label, one.before, one.after) for one in lost] == [("red", "red", "blue")] * 2
    gained = find_changes(bad, good, encoder=ENCODER).gained
    assert [(one.label, one.before, one.after) for one in gained] == [("red", "blue", "red")] * 2
    assert gained[0].picture.startswith("data:image/jpeg;base64,")
    assert find_changes(bad, good).lost == ()


def test_examples_say_so_where_the_images_are_gone(results: tuple[Result, ...], tmp_path: Path) -> None:
    moved = [
        replace(one, settings=replace(one.settings, task=replace(one.settings.task, files=(str(tmp_path / "gone"),))))
        for one in results
    ]
    assert [one.picture for one in find_changes(*moved).lost] == ["", ""]
    write_evaluation(tmp_path / "report.html", moved)
    assert (tmp_path / "report.html").read_text().count("the image files are missing, so none is shown") == 1


@pytest.mark.parametrize("content", [b"no Parquet", b""])
def test_prompts_that_were_damaged_or_replaced_since_give_no_captions(
    results: tuple[Result, ...], tmp_path: Path, content: bytes
) -> None:
    place = tmp_path / "prompts.parquet"
    if content:
        place.write_bytes(content)
    else:
        write_prompts(Prompts(LabelSet(("other",)), ((PromptText("other", 1.0),),), provenance("templates")), place)
    moved = [replace(one, settings=replace(one.settings, prompts=PromptFacts(str(place)))) for one in results]
    assert [one.captions for one in find_changes(*moved).lost] == [(), ()]


def test_classes_without_an_image_are_counted(results: tuple[Result, ...], tmp_path: Path) -> None:
    images = results[0].images
    assert images is not None
    some = replace(results[0], images=images.filter(pc.field("target") != 2))
    write_evaluation(tmp_path / "report.html", [some])
    assert (
        "3 classes in 2 groups, 1 of them without an image and not in the means."
        in (tmp_path / "report.html").read_text()
    )


def test_without_the_answers_to_single_images_the_numbers_remain(results: tuple[Result, ...], tmp_path: Path) -> None:
    bare = [replace(one, images=None) for one in results]
    write_evaluation(tmp_path / "report.html", bare)
    page = (tmp_path / "report.html").read_text()
    assert "The predictions of some runs for single images were not kept" in page
    assert re.findall(r"<h3>(.*?)</h3>", page) == [*GROWTH]
    with pytest.raises(ValueError, match="the images of 'good' and 'bad' were not kept"):
        find_changes(*bare)
    with pytest.raises(ValueError, match="there is no result to report"):
        write_evaluation(tmp_path / "report.html", [])


def test_of_many_runs_the_first_and_a_spread_from_best_to_worst_are_drawn() -> None:
    runs = [
        Result("t", str(place), "T0", "", SETTINGS, COUNTS, (Measure("accuracy", "", place / 20),))
        for place in range(20)
    ]
    assert [one.run for one in choose_shown(runs)] == ["0", "19", "16", "13", "10", "7", "4", "1"]
    assert choose_shown(runs[:8]) == runs[:8]
    headed = [
        replace(one, settings=replace(SETTINGS, head=HeadFacts(name="ridge"))) if place % 10 else one
        for place, one in enumerate(runs)
    ]
    assert [one.run for one in choose_shown(headed)] == ["0", "10", "19", "16", "12", "8", "4", "1"]


def test_charts_of_classes_show_names_and_counts() -> None:
    svg = draw_confusions({"one run": np.array([[3, 1], [0, 7]])}, ["a cat", "<dog>"])
    assert re.findall(r"<!-- (.*?) -->", svg) == [
        "a cat", "&lt;dog&gt;", "predicted", "a cat", "&lt;dog&gt;", "label", "3", "1", "7", "one run",
    ]  # fmt: skip
    svg = draw_gains(["up", "same", "down"], np.array([0.1, 0.5, 0.9]), np.array([0.4, 0.5, 0.2]))
    assert "<!-- 1 class better, 1 worse, 1 the same -->" in svg
    assert "<!-- same -->" not in svg
    assert re.findall(r"<!-- (\d+) -->", svg) == ["0", "1", "2", "3"]

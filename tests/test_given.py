"""What jobs take in the place of their values, and how they refuse anything else."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import rag_clip
from inputs.photographs import photographs
from inputs.pictures import encoded
from rag_clip import given
from rag_clip.classifiers.reuse import Reuse
from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.demo.concepts import concepts
from rag_clip.pipelines.running import Running
from rag_clip.pipelines.support_shots import ShotSettings
from rag_clip.support.painters import load_painter
from rag_clip.support.synthesised import Synthesis
from rag_clip.testing import ToyEncoder

COLOURS = ("red", "green", "blue")


def picture(colour: str) -> Image.Image:
    return Image.new("RGB", (9, 7), colour)


def png(colour: str) -> bytes:
    return encoded(picture(colour))


def colour_prompts(encoder: ToyEncoder | None = None) -> Prompts:
    facts = {"encoder": asdict((encoder or ToyEncoder()).fingerprint), "method": "templates", "settings": {}}
    return Prompts(LabelSet(COLOURS), tuple((PromptText(name, 1.0),) for name in COLOURS), facts)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name in COLOURS:
        (tmp_path / f"{name}.png").write_bytes(png(name))
    pq.write_table(pa.table({"image": [png(name) for name in COLOURS]}), tmp_path / "images.parquet")
    return tmp_path


IMAGES: dict[str, Callable[[Path], Any]] = {
    "a path": lambda files: str(files / "images.parquet"),
    "a Path": lambda files: files / "images.parquet",
    "a list of paths": lambda files: [files / f"{name}.png" for name in COLOURS],
    "a polars frame of bytes": lambda files: pl.DataFrame({"image": [png(name) for name in COLOURS]}),
    "a polars frame of paths": lambda files: pl.DataFrame({"path": [str(files / f"{name}.png") for name in COLOURS]}),
    "a pyarrow table": lambda files: pa.table({"image": [png(name) for name in COLOURS]}),
    "a list of PIL images": lambda files: [picture(name) for name in COLOURS],
    "a list of bytes": lambda files: [png(name) for name in COLOURS],
    "a list of frames": lambda files: [pl.DataFrame({"image": [png(name)]}) for name in COLOURS],
}


@pytest.mark.parametrize("kind", IMAGES)
def test_classify_takes_images_as(kind: str, files: Path) -> None:
    found = rag_clip.classify(IMAGES[kind](files), prompts=colour_prompts(), encoder=ToyEncoder(), running=Running(0))
    assert found.to_polars()["label"].to_list() == list(COLOURS)


def test_classify_takes_a_pandas_frame_of_some_rows(files: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"image": [b"", *(png(name) for name in COLOURS)]}).iloc[1:]
    found = rag_clip.classify(frame, prompts=colour_prompts(), encoder=ToyEncoder(), running=Running(0))
    assert found.to_polars().columns == ["image", "label", "score", "top_k_labels", "top_k_scores", "error"]
    assert found.to_polars()["label"].to_list() == list(COLOURS)


def test_relative_paths_of_a_frame_start_at_the_working_directory(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    frame = pl.DataFrame({"file": ["blue.png", "no.png"], "n": [1, 2]})
    found = rag_clip.classify(frame, prompts=colour_prompts(), encoder=ToyEncoder(), running=Running(0))
    assert found.to_polars(["file", "n", "label"]).rows() == [("blue.png", 1, "blue"), ("no.png", 2, None)]


def test_features_kept_of_a_frame_are_found_by_an_equal_one(tmp_path: Path) -> None:
    frame = pl.DataFrame({"image": [png(name) for name in COLOURS]})
    first, second = (
        rag_clip.classify(
            each,
            prompts=colour_prompts(),
            encoder=ToyEncoder(),
            running=Running(0),
            reuse=Reuse(features_dir=tmp_path / "f"),
        )
        for each in (frame, pl.concat([frame[:1], frame[1:]], rechunk=False).with_columns(n=1))
    )
    assert (first.decoded, second.decoded, second.from_cache) == (3, 0, 3)


def test_predictions_without_an_output_go_with_their_summary(files: Path) -> None:
    found = rag_clip.classify(
        files / "images.parquet", prompts=colour_prompts(), encoder=ToyEncoder(), running=Running(0)
    )
    path = found.output
    assert path.is_file()
    del found
    gc.collect()
    assert not path.parent.exists()


def test_images_of_one_folder_are_read_together(files: Path) -> None:
    from rag_clip.images.opening import open_image_files

    (files / "more").mkdir()
    (files / "more" / "red.png").write_bytes(png("red"))
    names = ["red.png", "green.png", "red.png", "more/red.png", "blue.png"]
    opened = open_image_files([files / name for name in names], image_column="image")
    assert [file.rows for file in opened] == [3, 1, 1]


def test_labels_are_a_list_of_names_a_file_or_a_label_set(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    labels = LabelSet(COLOURS)
    for each in (COLOURS, list(COLOURS), labels, tmp_path / "labels.txt", str(tmp_path / "labels.txt")):
        assert given.to_labels(each) == labels


def test_prompts_are_a_file_or_prompts(tmp_path: Path) -> None:
    prompts = colour_prompts()
    rag_clip.write_prompts(prompts, tmp_path / "prompts.json")
    for each in (prompts, tmp_path / "prompts.json", str(tmp_path / "prompts.json")):
        assert given.to_prompts(each) == prompts


def test_a_recipe_is_a_name_a_file_or_a_recipe() -> None:
    recipe = rag_clip.load_recipe("repe")
    assert given.to_recipe("repe") == given.to_recipe(recipe) == recipe


def test_an_encoder_is_a_name_an_encoder_or_the_one_recorded() -> None:
    encoder = ToyEncoder()
    assert given.to_encoder(encoder) is encoder
    demo = given.to_encoder("demo")
    again = given.to_encoder(None, recorded=asdict(demo.fingerprint))
    assert again.fingerprint == demo.fingerprint


def test_enhance_returns_prompts_and_reads_its_encoder_off_the_index(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a red bird on a fence\na green bird in a tree\n")
    rag_clip.build_index(tmp_path / "captions.txt", index=tmp_path / "index", encoder="demo")
    with rag_clip.open_store(tmp_path / "index") as store:
        by_store = rag_clip.enhance(["red bird", "green bird"], recipe="repe", index=store)
        assert store.count() == 2  # left open
    by_place = rag_clip.enhance(["red bird", "green bird"], recipe="repe", index=tmp_path / "index")
    assert by_store == by_place
    assert {text.text for text in by_store.texts[0]} >= {"a red bird on a fence"}


def test_search_takes_texts_images_and_queries(files: Path) -> None:
    pairs = pa.table({"image": [png(name) for name in COLOURS], "caption": [f"a {name} square" for name in COLOURS]})
    pq.write_table(pairs, files / "pairs.parquet")
    rag_clip.index_images([files / "pairs.parquet"], index=files / "index", encoder=rag_clip.load_encoder("demo"))
    words = rag_clip.search(files / "index", ["red", "green"], limit=1).to_polars()
    assert words.select("query", "rank", "text", "source").rows() == [
        ("red", 1, "a red square", "pairs"),
        ("green", 1, "a green square", "pairs"),
    ]
    with rag_clip.open_store(files / "index") as store:
        for image in (files / "blue.png", str(files / "blue.png"), picture("blue"), png("blue")):
            found = rag_clip.search(store, image=image, over="image", limit=1).to_polars()
            assert found["text"].to_list() == ["a blue square"]
        lighter = rag_clip.search(store, rag_clip.Query("red", png("blue"), weight=0.01), over="image", limit=1)
        assert lighter.answers[0].hits[0]["text"] == "a blue square"
        nothing = rag_clip.search(store, "violet").to_polars()
        assert (nothing.columns, len(nothing)) == (["query", "rank", "score", "text", "source"], 0)


def test_explain_takes_a_label_an_image_or_both(files: Path) -> None:
    rag_clip.write_prompts(colour_prompts(), files / "prompts.json")
    for prompts in (colour_prompts(), files / "prompts.json"):
        found = rag_clip.explain(prompts, "red", image=picture("blue"), encoder=ToyEncoder())
        assert found.label is not None
        assert found.image is not None
        assert (found.label.label, found.image.winner.label, found.image.rival.label) == ("red", "blue", "red")
    alone = rag_clip.explain(colour_prompts(), image=files / "green.png", encoder=ToyEncoder())
    assert alone.label is None
    alone.write_page(files / "page.html")
    assert "Why this is green" in (files / "page.html").read_text()
    with pytest.raises(ValueError, match="there is nothing to explain; give a class name, an image, or both"):
        rag_clip.explain(colour_prompts(), encoder=ToyEncoder())


LABELLED: dict[str, Callable[[Path], Any]] = {
    "a path": lambda files: str(files / "labelled.parquet"),
    "a list of a path": lambda files: [files / "labelled.parquet"],
    "a polars frame": lambda files: pl.read_parquet(files / "labelled.parquet"),
    "a pyarrow table": lambda files: pq.read_table(files / "labelled.parquet"),
}
TEXTS: dict[str, Callable[[Path], Any]] = {
    "Prompts": lambda _files: colour_prompts(),
    "a file": lambda files: files / "prompts.json",
    "a list of a file": lambda files: [str(files / "prompts.json")],
    "a mapping of names": lambda files: {"prompts": files / "prompts.json"},
}


@pytest.fixture
def labelled(files: Path) -> Path:
    images = [png(name) for name in (*COLOURS, "blue")]
    pq.write_table(pa.table({"image": images, "label": [*COLOURS, "red"]}), files / "labelled.parquet")
    rag_clip.write_prompts(colour_prompts(), files / "prompts.json")
    return files


@pytest.mark.parametrize("kind", LABELLED)
def test_evaluate_takes_labelled_images_as(kind: str, labelled: Path) -> None:
    found = rag_clip.evaluate(
        LABELLED[kind](labelled), prompts=colour_prompts(), encoder=ToyEncoder(), running=Running(0)
    )
    whole = found.to_polars().filter(pl.col("metric") == "accuracy", pl.col("item") == "")
    assert whole.select("run", "value").rows() == [("templates", 0.75)]


@pytest.mark.parametrize("kind", TEXTS)
def test_evaluate_takes_prompts_as(kind: str, labelled: Path) -> None:
    images, prompts = labelled / "labelled.parquet", TEXTS[kind](labelled)
    found = rag_clip.evaluate(images, prompts=prompts, encoder=ToyEncoder(), running=Running(0))
    assert [(result.run, result.main.value) for result in found.results] == [
        ("templates" if kind == "Prompts" else "prompts", 0.75)
    ]


def test_evaluate_measures_several_frames_and_named_prompts(labelled: Path) -> None:
    frame = pl.read_parquet(labelled / "labelled.parquet")
    texts = {"one": colour_prompts(), "two": colour_prompts()}
    found = rag_clip.evaluate([frame, frame[:3]], prompts=texts, encoder=ToyEncoder(), running=Running(0))
    assert [(result.task, result.run, result.main.value) for result in found.results] == [
        ("frame 1", "one", 0.75),
        ("frame 1", "two", 0.75),
        ("frame 2", "one", 1.0),
        ("frame 2", "two", 1.0),
    ]
    assert found.results[0].settings.task.files == ("the frame",)


def test_two_prompts_of_one_method_need_names() -> None:
    with pytest.raises(ValueError, match="two prompts would both be called 'templates'; give a mapping from names"):
        given.to_prompt_files([colour_prompts(), colour_prompts()])


def test_a_frame_of_labelled_images_needs_prompts_that_name_its_classes() -> None:
    with pytest.raises(ValueError, match="nothing says which classes the images of a frame are of; give prompts"):
        rag_clip.evaluate(pl.DataFrame({"image": [png("red")], "label": ["red"]}), encoder=ToyEncoder())


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "labels of a number": (lambda: given.to_labels(3), "labels is of type int; give a list of names"),  # type: ignore[arg-type]
    "a list with a number": (
        lambda: given.to_labels(["red", 3]),  # type: ignore[list-item]
        "labels is of type list, and contains a value of type int; give a list of names, the path of a label file",
    ),
    "labels for prompts": (
        lambda: given.to_prompts(LabelSet(COLOURS)),  # type: ignore[arg-type]
        "prompts is of type LabelSet; give the path of a prompts file, or Prompts, such as enhance",
    ),
    "labels for an encoder": (
        lambda: given.to_encoder(LabelSet(COLOURS)),  # type: ignore[arg-type]
        "encoder is of type LabelSet; give the name of a model, such as 'demo'",
    ),
    "a dictionary for a recipe": (lambda: given.to_recipe({}), "recipe is of type dict; give one of the names"),  # type: ignore[arg-type]
    "a number for an index": (lambda: given.index_place(3), "index is of type int; give the folder of an index"),  # type: ignore[arg-type]
    "a number for images": (lambda: given.to_images(3), "images is of type int; give paths of images"),  # type: ignore[arg-type]
    "a series": (lambda: given.to_images(pl.Series(["a.png"])), "images is of type Series; give paths of images"),
    "a lazy frame": (
        lambda: given.to_images(pl.LazyFrame({"path": ["a.png"]})),  # type: ignore[arg-type]
        "images is of type LazyFrame; give paths",
    ),
    "labels to evaluate": (
        lambda: given.to_prompt_files([LabelSet(COLOURS)]),  # type: ignore[list-item]
        "prompts is of type list, and contains a value of type LabelSet; give paths of prompts files, Prompts, or a",
    ),
    "a number for tasks": (
        lambda: given.to_tasks(3, labels=None),  # type: ignore[arg-type]
        "tasks is of type int; give paths of labelled images or features, names of bundled tasks, or frames",
    ),
    "a frame for one image": (
        lambda: given.to_image(pl.DataFrame({"path": ["a.png"]})),  # type: ignore[arg-type]
        "image is of type DataFrame; give the path of an image, a PIL image, or the bytes of its file",
    ),
    "an image for a query": (
        lambda: given.to_queries(picture("red")),  # type: ignore[arg-type]
        "queries is of type Image; give a text, a Query, or a list of these",
    ),
    "paths among images": (lambda: given.to_images([png("red"), "a.png"]), "images are both in memory and in files"),
    "a number for captions": (
        lambda: given.to_captions([3]),  # type: ignore[list-item]
        "captions is of type list, and contains a value of type int; give a path or URL, a polars or pandas frame",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_is_a_type_error_that_says_what_to_pass(case: str) -> None:
    attempt, message = REFUSED[case]
    with pytest.raises(TypeError, match=message):
        attempt()


def test_a_frame_without_images_is_refused_naming_its_columns() -> None:
    with pytest.raises(ValueError, match="the frame has no column 'image'; its columns are n"):
        rag_clip.classify(pl.DataFrame({"n": [1]}), prompts=colour_prompts(), encoder=ToyEncoder(), running=Running(0))


def test_prompts_that_record_no_encoder_need_one() -> None:
    with pytest.raises(ValueError, match="nothing says which encoder to use; give encoder, such as 'demo'"):
        rag_clip.classify(pl.DataFrame({"image": [png("red")]}), prompts=colour_prompts(), running=Running(0))


def test_support_verbs_take_paths_names_of_models_and_names_of_classes(tmp_path: Path) -> None:
    names = [concept.name for concept in concepts()[:3]]
    pairs = tmp_path / "pairs.parquet"
    captions = [f"a photo of {name}" for name in names]
    pq.write_table(pa.table({"image": photographs(3), "caption": captions, "label": names}), pairs)
    prompts, index = tmp_path / "prompts.json", tmp_path / "index"
    rag_clip.write_prompts(rag_clip.enhance(names, recipe="templates", encoder="demo"), prompts)
    rag_clip.index_images(str(pairs), index=index, encoder="demo", running=Running(0))
    retrieved = rag_clip.retrieve_support(prompts, output=tmp_path / "found.parquet", index=str(index))
    shots = rag_clip.support_from_shots(
        str(pairs),
        names,
        output=tmp_path / "shots.parquet",
        encoder="demo",
        k=1,
        running=Running(0),
        settings=ShotSettings(views=0),
    )
    painted = rag_clip.synthesise_support(
        str(prompts),
        output=tmp_path / "painted.parquet",
        painter=load_painter("demo", steps=1),
        settings=Synthesis(per_class=1, keep=1),
    )
    assert [len(rag_clip.read_support(made.output)) for made in (retrieved, shots, painted)] == [3, 3, 3]

"""Every kind of source in every verb that reads images: one table of both."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from inputs.pictures import LightEncoder, colour_prompts, picture
from inputs.sources import CAPTIONED, COLOURS, SOURCES, listed
from inputs.tasks import LABELS, prompt_files, value
from rag_clip.classifiers.match import Scoring
from rag_clip.classifiers.reuse import Reuse
from rag_clip.cli.explain import _picture as picture_to_explain
from rag_clip.evaluation.check import check_evaluation
from rag_clip.evaluation.image_tasks import image_task, open_tasks
from rag_clip.files.support import read_support
from rag_clip.images.decoding import Decoding
from rag_clip.images.labelled import read_labelled
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.evaluate import evaluate
from rag_clip.pipelines.images import index_images
from rag_clip.pipelines.running import Running
from rag_clip.pipelines.support_shots import ShotSettings, support_from_shots
from rag_clip.progress import ProgressEvent
from rag_clip.report.examples import _picture
from rag_clip.support.known import read_known
from rag_clip.testing import ToyEncoder

ENCODER = ToyEncoder()
CLASSES = [LABELS.names.index(name) for name in COLOURS]
each_source = pytest.mark.parametrize("write", SOURCES.values(), ids=SOURCES)


@each_source
def test_classify_predicts_every_row_beside_the_columns_of_the_source(tmp_path: Path, write: Callable):
    settings: dict[str, Any] = {
        "prompts": colour_prompts(),
        "encoder": ENCODER,
        "running": Running(0),
        "scoring": Scoring(1),
    }
    summary = classify([write(tmp_path)], output=tmp_path / "out.parquet", **settings)
    table = pq.read_table(summary.output)
    assert table[summary.columns[0]].to_pylist() == list(COLOURS)
    assert (summary.rows, summary.failed) == (6, 0)


@each_source
def test_evaluate_measures_the_labels_of_every_source(tmp_path: Path, write: Callable):
    texts = prompt_files(tmp_path)[:1]
    opened = open_tasks([write(tmp_path / "data")], labels=LABELS)
    assert check_evaluation(opened, texts=texts) == ()
    tasks = [image_task(*task) for task in opened]
    settings: dict[str, Any] = {
        "prompts": texts,
        "output": tmp_path / "r.parquet",
        "encoder": ENCODER,
        "running": Running(0),
    }
    first = evaluate(tasks, **settings).results[0]
    assert (value(first, "accuracy"), first.counts.images) == (1, 6)
    assert evaluate(tasks, **settings).measured == 0
    shown = _picture(first, 5)
    assert shown is not None
    assert shown.getpixel((0, 0)) == (255, 0, 0)


@each_source
def test_shots_are_drawn_from_every_source(tmp_path: Path, write: Callable):
    settings: dict[str, Any] = {
        "output": tmp_path / "s.parquet",
        "encoder": ENCODER,
        "k": 2,
        "settings": ShotSettings(views=0, with_images=True),
        "running": Running(0),
    }
    place = write(tmp_path / "data")
    support_from_shots([place], LABELS, **settings)
    assert read_support(tmp_path / "s.parquet").shares.argmax(1).tolist() == [2, 1, 0]
    assert support_from_shots([place], LABELS, **settings).reused


@each_source
def test_images_to_classify_are_known_and_compared_from_every_source(tmp_path: Path, write: Callable):
    place = write(tmp_path / "data")
    known, copies = read_known([place], encoder=ENCODER, decoding=Decoding(0))
    assert (len(known.sha256), len(copies.features)) == (6, 6)
    assert read_labelled([place], LABELS, encoder=ENCODER, decoding=Decoding(0)).targets.tolist() == CLASSES


@pytest.mark.parametrize("write", [SOURCES[name] for name in SOURCES if "hive" not in name])  # those are three files
def test_a_row_of_every_source_is_explained(tmp_path: Path, write: Callable):
    assert picture_to_explain(None, str(write(tmp_path / "data")), 4, "image") == picture("red")


@pytest.mark.parametrize("write", [SOURCES[name] for name in CAPTIONED], ids=CAPTIONED)
def test_index_images_takes_every_source_with_captions(tmp_path: Path, write: Callable):
    settings: dict[str, Any] = {
        "index": tmp_path / "index",
        "encoder": ENCODER,
        "running": Running(0),
        "noise": False,
    }
    place = write(tmp_path / "data")
    found = index_images([place], **settings)
    assert (found.rows, found.failed, found.embedded, found.count) == (6, 0, 6, 3)
    assert index_images([place], **settings).embedded == 0


@pytest.mark.parametrize("name", ["folder", "csv", "tar with json", "base64"])
def test_worker_processes_read_every_kind(tmp_path: Path, name: str):
    settings: dict[str, Any] = {"prompts": colour_prompts(), "encoder": LightEncoder(), "running": Running(1)}
    summary = classify([SOURCES[name](tmp_path)], output=tmp_path / "out.parquet", **settings)
    assert pq.read_table(summary.output)[summary.columns[0]].to_pylist() == list(COLOURS)


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("folder", ["path", "label"]),
        ("metadata.jsonl", ["file_name", "label", "caption"]),
        ("tsv", ["filepath", "class", "caption"]),
        ("csv without a header", ["path", "label"]),
        ("base64", ["id", "image", "label", "caption"]),
        ("tar with json", ["key", "label", "caption", "side"]),
        ("tar with cls", ["key", "cls"]),
    ],
)
def test_the_columns_of_a_source_pass_through(tmp_path: Path, name: str, columns: list[str]):
    settings: dict[str, Any] = {"prompts": colour_prompts(), "encoder": ENCODER, "running": Running(0)}
    summary = classify([SOURCES[name](tmp_path)], output=tmp_path / "out.parquet", **settings)
    assert pq.read_schema(summary.output).names == [*columns, *summary.columns]


@pytest.mark.parametrize("name", ["folder", "csv", "tar with cls", "remote tar"])
def test_a_run_that_was_cut_short_goes_on(tmp_path: Path, name: str):
    place = SOURCES[name](tmp_path / "data")
    settings: dict[str, Any] = {
        "prompts": colour_prompts(),
        "encoder": ENCODER,
        "running": Running(0, 2, shard_rows=2),
        "reuse": Reuse(features_dir=tmp_path / "features"),
    }

    def stop(event: ProgressEvent) -> None:
        if event.stage == "encode" and event.done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classify(
            [place],
            output=tmp_path / "out.parquet",
            **{**settings, "running": Running(0, 2, report=stop, shard_rows=2)},
        )
    again = classify([place], output=tmp_path / "out.parquet", **settings)
    assert (again.decoded, again.from_cache) == (4, 2)
    assert pq.read_table(again.output)[again.columns[0]].to_pylist() == list(COLOURS)


def test_a_changed_image_of_a_folder_is_encoded_again(tmp_path: Path):
    place = SOURCES["folder"](tmp_path / "data")
    settings: dict[str, Any] = {
        "prompts": colour_prompts(),
        "encoder": ENCODER,
        "running": Running(0),
        "reuse": Reuse(features_dir=tmp_path / "features"),
    }
    classify([place], output=tmp_path / "out.parquet", **settings)
    Path(place, "blue", "0.png").write_bytes(picture("red", size=(3, 3)))
    again = classify([place], output=tmp_path / "out.parquet", **settings)
    assert pq.read_table(again.output)["predicted_label"].to_pylist() == ["red", *COLOURS[1:]]


def test_rows_that_cannot_be_read_fail_alone(tmp_path: Path):
    place = listed("list.csv", "path")(tmp_path)
    bad = [
        "gone.png,red,x",
        ",red,x",
        "red/4.png,red,x,one more",
        '"data:image/png,abc",red,x',
        "https://x/1.png,red,x",
    ]
    place.write_text("\n".join([place.read_text(), *bad, "/dev/zero,red,x"]))
    settings: dict[str, Any] = {"prompts": colour_prompts(), "encoder": ENCODER, "running": Running(0)}
    summary = classify([place], output=tmp_path / "out.parquet", **settings)
    assert summary.failed == 6
    assert pq.read_table(summary.output)["predicted_error"].to_pylist() == [
        *[None] * 6,
        f"cannot read {str(tmp_path / 'data' / 'gone.png')!r}: No such file or directory",
        "the image is null",
        "the row does not split into 3 cells; quote cells that contain the delimiter, and close quotes",
        "the data URI 'data:image/png' is not base64; encode its image as base64",
        "the image 'https://x/1.png' is a URL, which is not fetched; download it first",
        "/dev/zero is a pipe, a socket or a device, which is not read; write its content to a file",
    ]


def test_lists_of_images_are_read_as_lists_of_captions_are(tmp_path: Path):
    for name in ("a", 'b "c"', "d, e"):
        (tmp_path / f"{name}.png").write_bytes(picture("red"))
    big = base64.b64encode(picture("blue") + bytes(2 << 20)).decode()
    rows = [
        "sep=;",
        "path;note",
        "a.png;plain",
        r'"b \"c\".png";"said \"so\""',
        '"d, e.png";"two',
        'lines"',
        f"{big};long",
    ]
    rows += ['"a.png;open', "a.png;after"]
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "list.jsonl").write_text(json.dumps({"image": big}) + "\n")
    settings: dict[str, Any] = {"prompts": colour_prompts(), "encoder": ENCODER, "running": Running(0)}
    found = pq.read_table(classify([tmp_path / "list.csv"], output=tmp_path / "o.parquet", **settings).output)
    assert found["note"].to_pylist() == ["plain", 'said "so"', "two\nlines", "long", None, "after"]
    assert found["label"].to_pylist() == ["red", "red", "red", "blue", None, "red"]
    lines = pq.read_table(classify([tmp_path / "list.jsonl"], output=tmp_path / "l.parquet", **settings).output)
    assert lines["label"].to_pylist() == ["blue"]

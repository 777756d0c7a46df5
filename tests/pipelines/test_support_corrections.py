"""Images that a person has put right: a support file of their own, and a source of evidence that can be left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
import torch

from inputs.command_line import run as command
from inputs.pictures import colour_prompts, noisy_pictures, write_images
from rag_clip import read_support, support_evidence
from rag_clip.classifiers.floor import Floored
from rag_clip.classifiers.novelty import OpenWorld
from rag_clip.classifiers.prepared import prepare_head
from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import Features, LabelSet, Prompts, Support
from rag_clip.files.evidence import read_evidence
from rag_clip.files.prompts import write_prompts
from rag_clip.files.support import write_support
from rag_clip.pipelines.open_world import read_shots
from rag_clip.pipelines.running import Running
from rag_clip.pipelines.support_corrections import CorrectionsSummary, support_from_corrections
from rag_clip.testing import ToyEncoder, check_support

NAMES = ("red", "green", "blue")
LABELS, ENCODER, PROMPTS = LabelSet(NAMES), ToyEncoder(), colour_prompts(*NAMES)
PICTURES, TRUTH = noisy_pictures(12)
RIGHT = {7: "green", 2: "blue", 9: "red"}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    ids = [f"id-{row}" for row in range(12)]
    return write_images(tmp_path / "images.parquet", PICTURES, id=ids, number=list(range(100, 112)))


def corrected(corrections: Any, images: Any, folder: Path, **settings: Any) -> CorrectionsSummary:
    output = folder / "corrected.parquet"
    defaults: dict[str, Any] = {"prompts": PROMPTS, "encoder": ENCODER, "running": Running(0), "output": output}
    return support_from_corrections(corrections, images=images, **defaults | settings)


def labels_by_row(support: Support) -> Mapping[int, str]:
    rows = [int(reference.rpartition("#")[2]) for reference in support.references]
    return dict(zip(rows, (NAMES[place] for place in support.shares.argmax(1).tolist()), strict=True))


def test_a_correction_is_an_image_with_its_right_label_and_an_origin_of_its_own(images: Path, tmp_path: Path) -> None:
    summary = corrected(RIGHT, images, tmp_path, with_images=True)
    support = read_support(summary.output, encoder=ENCODER.fingerprint)
    check_support(support, LABELS)
    assert (summary.images, summary.classes, summary.failed, summary.repeated) == (3, 3, 0, 0)
    assert support.origin == ("corrected",) * 3
    assert labels_by_row(support) == RIGHT
    whole = ENCODER.encode_images([PICTURES[row] for row in (2, 7, 9)]).pooled
    torch.testing.assert_close(support.features, whole, atol=1e-6, rtol=0)
    assert pq.read_table(summary.output)["image"].to_pylist() == [PICTURES[row] for row in (2, 7, 9)]


def test_images_are_named_by_row_or_by_a_column_of_theirs_in_any_kind_of_table(images: Path, tmp_path: Path) -> None:
    rows, labels = list(RIGHT), list(RIGHT.values())
    tables = {
        "rows.csv": pl.DataFrame({"row": rows, "label": labels}),
        "ids.tsv": pl.DataFrame({"id": [f"id-{row}" for row in rows], "Label": labels}),
        "ids.jsonl": pl.DataFrame({"id": [f"id-{row}" for row in rows], "class": labels, "note": "seen"}),
        "numbers.parquet": pl.DataFrame({"number": [100 + row for row in rows], "label": labels}),
    }
    tables["rows.csv"].write_csv(tmp_path / "rows.csv")
    tables["ids.tsv"].write_csv(tmp_path / "ids.tsv", separator="\t")
    tables["ids.jsonl"].write_ndjson(tmp_path / "ids.jsonl")
    tables["numbers.parquet"].write_parquet(tmp_path / "numbers.parquet")
    for name, table in tables.items():
        support = read_support(corrected(tmp_path / name, images, tmp_path).output)
        assert labels_by_row(support) == RIGHT, name
        assert labels_by_row(read_support(corrected(table, images, tmp_path).output)) == RIGHT, name
    both = pl.DataFrame({"id": ["id-4"], "number": [105], "label": ["red"]})
    with pytest.raises(
        ValueError, match=r"several columns that the images have too \(id, number\); say by `key` which"
    ):
        corrected(both, images, tmp_path)
    assert labels_by_row(read_support(corrected(both, images, tmp_path, key="number").output)) == {5: "red"}


def test_rows_of_a_list_of_files_are_counted_over_all_and_named_by_path(tmp_path: Path) -> None:
    for row, picture in enumerate(PICTURES):
        (tmp_path / f"{row}.png").write_bytes(picture)
    for name, start in (("a.csv", 0), ("b.csv", 6)):
        (tmp_path / name).write_text("path\n" + "".join(f"{row}.png\n" for row in range(start, start + 6)))
    lists = [tmp_path / "a.csv", tmp_path / "b.csv"]
    support = read_support(corrected({7: "red"}, lists, tmp_path).output)
    torch.testing.assert_close(support.features, ENCODER.encode_images(PICTURES[7:8]).pooled, atol=1e-6, rtol=0)
    assert support.references == (f"{tmp_path / 'b.csv'}#1",)
    named = read_support(corrected(pl.DataFrame({"path": ["7.png"], "label": ["red"]}), lists, tmp_path).output)
    assert named.references == support.references


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"row": [12], "label": ["red"]}, "has the row 12; rows are whole numbers from 0 to 11"),
        ({"row": ["first"], "label": ["red"]}, "has the row 'first'; rows are whole numbers"),
        ({"row": [1], "label": ["pink"]}, "1 label not among the 3 classes, such as 'pink'"),
        ({"row": [1], "label": [None]}, "has no single label in row 0; give one right label to each image"),
        ({"row": [1, 1], "label": ["red", "blue"]}, "says 'red' and 'blue' of the same image"),
        ({"row": [1], "right": ["red"]}, "has no column 'label' of right labels; it has row, right"),
        ({"id": ["id-99"], "label": ["red"]}, "has the id 'id-99', which no image has; name each image by its row"),
        ({"twice": ["x"], "label": ["red"]}, "has the twice 'x', which 12 images have"),
        ({"name": ["x"], "label": ["red"]}, "has no column 'row', and no column of the images"),
        ({"row": [], "label": []}, "has no row; give the image and the right label of each"),
    ],
)
def test_corrections_that_mean_no_image_or_no_class_are_refused(
    table: dict[str, list[Any]], message: str, tmp_path: Path
) -> None:
    ids = [f"id-{row}" for row in range(12)]
    images = write_images(tmp_path / "images.parquet", PICTURES, id=ids, twice=["x"] * 12)
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        corrected(pl.DataFrame(table), images, tmp_path)
    assert not (tmp_path / "corrected.parquet").exists()


@pytest.mark.parametrize(
    ("right", "message"),
    [
        ({"first": "red"}, "has the row 'first'; rows are whole numbers from 0 to 11"),
        ({1: 2}, "1 label not among the 3 classes, such as '2'"),
        ({}, "the table has no row"),
    ],
)
def test_labels_by_row_that_mean_no_row_or_no_class_are_refused(
    right: dict[Any, Any], message: str, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        corrected(right, images, tmp_path)


def test_corrected_images_are_a_source_of_evidence_that_can_be_left_out(images: Path, tmp_path: Path) -> None:
    pictures, names = noisy_pictures(9, seed=3)
    shots = Support(
        LABELS, ENCODER.encode_images(pictures).pooled, torch.eye(3)[[NAMES.index(name) for name in names]],
        torch.ones(9), ("shot",) * 9, tuple(map(str, range(9))), {"encoder": asdict(ENCODER.fingerprint)},
    )  # fmt: skip
    write_support(shots, tmp_path / "shots.parquet")
    given = [tmp_path / "shots.parquet", corrected(RIGHT, images, tmp_path).output]
    both = support_evidence(given, output=tmp_path / "both.safetensors")
    assert list(both.sources) == ["shot", "corrected"]
    assert both.images == {"shot": 9, "corrected": 3}
    assert both.sources["corrected"].counts.tolist() == [2, 2, 2]
    support_evidence(given, without=["corrected"], output=tmp_path / "without.safetensors")
    support_evidence(given[0], output=tmp_path / "alone.safetensors")
    features = Features(ENCODER.encode_images(PICTURES).pooled)
    logits = {
        name: prepare_head("evidence", tmp_path / f"{name}.safetensors", labels=LABELS, encoder=ENCODER).build(
            zero_shot(PROMPTS, ENCODER)
        )(features)
        for name in ("both", "without", "alone")
    }
    assert torch.equal(logits["without"], logits["alone"])
    assert (logits["both"] - logits["alone"]).abs().max() > 1e-3
    assert list(read_evidence(tmp_path / "both.safetensors").without("corrected").sources) == ["shot"]


def test_corrected_images_judge_neither_a_head_nor_the_threshold_of_novelty(images: Path, tmp_path: Path) -> None:
    everything = corrected(dict(enumerate(TRUTH)), images, tmp_path).output
    world = OpenWorld(["traffic light"], support=everything)
    assert read_shots(world, LABELS, ENCODER) is None
    head = prepare_head("ridge", everything, labels=LABELS, encoder=ENCODER)
    built = head.build(zero_shot(PROMPTS, ENCODER))
    assert isinstance(built, Floored)
    assert built.images == 0
    support = read_support(everything)
    write_support(replace(support, origin=("shot",) * 12), tmp_path / "shots.parquet")
    found = read_shots(replace(world, support=tmp_path / "shots.parquet"), LABELS, ENCODER)
    assert found is not None
    assert len(found) == 12


def test_the_command_takes_the_predictions_and_says_which_images_cannot_be_read(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images.parquet", [*PICTURES[:5], b"no image"], id=[str(row) for row in range(6)])
    write_prompts(Prompts(PROMPTS.labels, PROMPTS.texts, {"method": "names"}), tmp_path / "prompts.parquet")
    demo = ("--model", "demo", "--workers", "0")
    done = command("classify", images.name, "--prompts", "prompts.parquet", *demo, "-o", "out.parquet", folder=tmp_path)
    assert done.code == 3
    (tmp_path / "right.csv").write_text("id,label\n1,green\n3,red\n5,blue\n")
    given = ("support", "corrections", "right.csv", "--images", "out.parquet", "--prompts", "prompts.parquet", *demo)
    done = command(*given, "-o", "corrected.parquet", folder=tmp_path)
    assert done.code == 3
    assert "corrected.parquet: 2 corrected images of 2 classes" in done.out
    assert "1 corrected image cannot be read" in done.out
    assert labels_by_row(read_support(tmp_path / "corrected.parquet")) == {1: "green", 3: "red"}
    again = command(*given, "-o", "corrected.parquet", folder=tmp_path)
    assert again.code == 3, again.errors  # its own output is replaced
    refused = command(*given, "-o", "right.csv", folder=tmp_path)
    assert refused.code == 1
    made = ("support", "evidence", "corrected.parquet", "--corrected", "3", "-o", "sums.safetensors")
    done = command(*made, folder=tmp_path)
    assert (done.code, "corrected: 2 images, which count as 6" in done.out) == (0, True), done.errors
    used = ("classify", images.name, "--prompts", "prompts.parquet", *demo, "--support", "sums.safetensors")
    assert command(*used, "-o", "after.parquet", folder=tmp_path).code == 3


def test_an_image_that_occurs_twice_is_one_row(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images.parquet", [PICTURES[0], PICTURES[1], PICTURES[0]])
    summary = corrected({0: "red", 1: "green", 2: "red"}, images, tmp_path)
    assert (summary.images, summary.repeated) == (2, 1)

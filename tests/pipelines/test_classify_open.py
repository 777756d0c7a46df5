"""Images of none of the classes: a column of novelty, a threshold, and labels that are left out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from inputs.command_line import run as command
from inputs.pictures import colour_prompts, noisy_pictures, write_images
from rag_clip.classifiers.match import Scoring
from rag_clip.classifiers.novelty import OpenWorld
from rag_clip.classifiers.reuse import Reuse
from rag_clip.data import LabelSet, Prompts, Support
from rag_clip.files.outputs import made_by
from rag_clip.files.prompts import write_prompts
from rag_clip.files.support import write_support
from rag_clip.pipelines.classify import ClassifySummary, classify
from rag_clip.pipelines.running import Running
from rag_clip.testing import ToyEncoder

NAMES, ENCODER = ("red", "green"), ToyEncoder()
PICTURES, TRUTH = noisy_pictures(90)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images.parquet", [*PICTURES, b"broken"], truth=[*TRUTH, "none"])


def run(images: Path, world: OpenWorld | None, *, refine: bool = False, **settings: Any) -> ClassifySummary:
    defaults: dict[str, Any] = {"prompts": colour_prompts(*NAMES), "encoder": ENCODER, "running": Running(0)}
    scoring = Scoring(refine=refine, open_world=world)
    return classify(images, output=images.with_name("out.parquet"), scoring=scoring, **defaults | settings)


def test_images_of_another_colour_are_more_novel_and_get_no_label_if_asked(images: Path) -> None:
    kept = run(images, OpenWorld(("blue", "red flag")))
    table = kept.to_polars()
    assert table.columns[-2:] == ["error", "novelty"]
    good = table.filter(pl.col("error").is_null())
    blue = good.filter(truth="blue")["novelty"]
    others = good.filter(pl.col("truth") != "blue")["novelty"]
    assert blue.median() > 0.5 > others.median()  # type: ignore[operator]
    assert table["novelty"].null_count() == table["label"].null_count() == 1
    assert kept.novelty is not None
    assert (kept.novelty.negatives, kept.novelty.by, kept.novelty.threshold) == (1, "usual", 0.5)
    assert kept.novelty.novel == int((good["novelty"] > 0.5).sum())
    rejected = run(images, OpenWorld(("blue", "red flag"), threshold=0.7, reject=True))
    again = rejected.to_polars()
    assert again["novelty"].equals(table["novelty"])
    assert again["top_k_labels"].equals(table["top_k_labels"])
    assert again["score"].equals(table["score"])
    above = (table["novelty"] > 0.7).fill_null(value=True)
    assert again["label"].is_null().equals(above)
    assert again["label"].filter(~above).equals(table["label"].filter(~above))
    assert sum(rejected.predicted.classes.values()) == 91 - int(above.sum())
    assert all(each.label for each in rejected.predicted.lowest)
    facts = json.loads(pq.read_schema(rejected.output).metadata[b"rag_clip"])["novelty"]
    assert facts == {
        "place": "names", "negatives": 1, "threshold": 0.7, "by": "given", "rejected": True, "novel": 0,
    }  # fmt: skip
    assert made_by(rejected.output) == "classify"
    run(images, None)  # replaces its own file


def test_labels_are_those_of_a_closed_world_whatever_the_batch_and_beside_refinement(images: Path) -> None:
    closed = run(images, None).to_polars()
    world = OpenWorld(("blue", "sea"))
    opened, small = run(images, world).to_polars(), run(images, world, running=Running(0, batch_size=7)).to_polars()
    assert opened.drop("novelty").equals(closed)
    assert np.allclose(small["novelty"].drop_nulls(), opened["novelty"].drop_nulls(), atol=1e-6)
    refined = run(images, world, refine=True).to_polars()
    assert refined.columns[-3:] == ["error", "label_alone", "novelty"]
    assert np.allclose(refined["novelty"].drop_nulls(), opened["novelty"].drop_nulls(), atol=1e-6)
    several = {"names": colour_prompts(*NAMES), "again": colour_prompts(*NAMES)}
    chosen = run(images, world, prompts=several).to_polars()
    assert np.allclose(chosen["novelty"].drop_nulls(), opened["novelty"].drop_nulls(), atol=1e-6)


def test_labelled_images_choose_the_threshold_and_found_ones_do_not(images: Path, tmp_path: Path) -> None:
    rows = [row for row, name in enumerate(TRUTH) if name in NAMES]
    for origin in ("shot", "retrieved"):
        support = Support(
            LabelSet(NAMES),
            ENCODER.encode_images([PICTURES[row] for row in rows]).pooled,
            torch.eye(2)[[NAMES.index(TRUTH[row]) for row in rows]],
            torch.ones(len(rows)),
            (origin,) * len(rows),
            tuple(map(str, rows)),
            {"encoder": asdict(ENCODER.fingerprint), "method": "shots"},
        )
        write_support(support, tmp_path / f"{origin}.parquet")
    summary = run(images, OpenWorld(("blue",), tmp_path / "shot.parquet", reject=True))
    assert summary.novelty is not None
    assert summary.novelty.by == "support"
    known = summary.to_polars().filter(pl.col("truth").is_in(NAMES))
    assert known["label"].is_null().mean() <= 0.05  # type: ignore[operator]
    found = run(images, OpenWorld(("blue",), tmp_path / "retrieved.parquet")).novelty
    assert found is not None
    assert (found.by, found.threshold) == ("usual", 0.5)


def test_negatives_that_say_nothing_new_are_refused_before_images_are_encoded(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"every name of names shares words with the classes|has no names except"):
        run(images, OpenWorld(("red", "a green one")))
    with pytest.raises(FileNotFoundError, match=r"there is no file nowhere.txt"):
        run(images, OpenWorld("nowhere.txt"))
    assert {each.name for each in tmp_path.iterdir()} == {"images.parquet"}


def test_the_command_takes_captions_and_says_how_many_are_none_of_the_classes(tmp_path: Path) -> None:
    write_images(tmp_path / "images.parquet", PICTURES[:12])
    names = colour_prompts(*NAMES)
    write_prompts(Prompts(names.labels, names.texts, {"method": "names"}), tmp_path / "prompts.parquet")
    captions = ["a blue sea", "a blue boat", "green hills", "a red flag"] * 3
    pq.write_table(pa.table({"caption": captions}), tmp_path / "captions.parquet")
    asked = ["classify", "images.parquet", "--prompts", "prompts.parquet", "--model", "demo", "--workers", "0"]
    done = command(*asked, "-o", "out.parquet", "--open", "--negatives", "captions.parquet", "--json", folder=tmp_path)
    assert done.code == 0, done.errors
    facts = json.loads(done.out)["novelty"]
    assert facts["place"] == "captions.parquet"
    assert facts["negatives"] == 7  # blue, sea, boat, blue sea, blue boat, hills, flag; no phrase with red or green
    for options, reason in (
        (("--open",), "give --negatives FILE, or --index INDEX"),
        (("--reject",), "--reject and --most-novelty decide with --open; add it"),
        (("--open", "--negatives", "captions.parquet", "--most-novelty", "2"), "give a number from 0 to 1"),
    ):
        refused = command(*asked, "-o", "out.parquet", *options, folder=tmp_path)
        assert (refused.code, reason in refused.errors) == (1, True), refused.errors


def test_missing_shots_end_a_run_before_any_image_is_encoded(images: Path, tmp_path: Path) -> None:
    world = OpenWorld(("blue",), tmp_path / "gone.parquet")
    with pytest.raises(FileNotFoundError, match=r"gone\.parquet"):
        run(images, world, reuse=Reuse(features_dir=tmp_path / "f"))
    assert not list((tmp_path / "f").glob("**/*.parquet"))


def test_names_of_other_things_come_once_and_have_a_word(images: Path) -> None:
    kept = run(images, OpenWorld(("blue", "Blue", "blué", "", "  ", "!!!", "red flag")))
    assert kept.novelty is not None
    assert kept.novelty.negatives == 1  # a red flag holds the name of a class

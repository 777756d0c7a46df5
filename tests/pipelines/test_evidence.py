"""Evidence of several sources in classify and evaluate: support files, sums of them, and the images of the file."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
import torch

from inputs.command_line import run as command
from inputs.pictures import colour_prompts, noisy_pictures, write_images
from rag_clip.classifiers.match import Scoring
from rag_clip.classifiers.prepared import PreparedHead, prepare_head
from rag_clip.data import LabelSet, Support
from rag_clip.evaluation.head_choices import HeadChoice
from rag_clip.evaluation.shot_runs import FewShot, Heads
from rag_clip.files.prompts import write_prompts
from rag_clip.files.support import write_support
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.evaluate import evaluate
from rag_clip.pipelines.running import Running
from rag_clip.pipelines.support_evidence import support_evidence
from rag_clip.testing import ToyEncoder

NAMES = ("red", "green", "blue")
LABELS, ENCODER = LabelSet(NAMES), ToyEncoder()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    pictures, names = noisy_pictures(120)
    return write_images(tmp_path / "images.parquet", pictures, label=names)


@pytest.fixture
def support(tmp_path: Path) -> Path:
    """Twelve labelled images, and twelve that were found, in one file."""
    pictures, names = noisy_pictures(24, seed=7)
    rows = Support(
        LABELS,
        ENCODER.encode_images(pictures).pooled,
        torch.eye(3)[[NAMES.index(name) for name in names]],
        torch.tensor([1.0, 0.8]).repeat_interleave(12),
        ("shot",) * 12 + ("retrieved",) * 12,
        tuple(map(str, range(24))),
        {"encoder": asdict(ENCODER.fingerprint), "method": "merged"},
    )
    write_support(rows, tmp_path / "support.parquet")
    support_evidence(tmp_path / "support.parquet", output=tmp_path / "evidence.safetensors")
    return tmp_path / "support.parquet"


def predictions(images: Path, head: PreparedHead | None, *, refine: bool = False, **settings: Any) -> pl.DataFrame:
    written = classify(
        images,
        prompts=colour_prompts(*NAMES),
        output=images.with_name("out.parquet"),
        encoder=ENCODER,
        head=head,
        scoring=Scoring(refine=refine),
        running=Running(0, **settings),
    )
    return written.to_polars()


def head_on(place: Path) -> PreparedHead:
    return prepare_head("evidence", place, labels=LABELS, encoder=ENCODER).without_floor()


def test_a_file_of_evidence_predicts_what_its_support_file_does(images: Path, support: Path) -> None:
    whole = predictions(images, head_on(support))
    sums = predictions(images, head_on(support.with_name("evidence.safetensors")))
    assert sums["predicted_label"].equals(whole["predicted_label"])
    assert sums["predicted_score"].to_list() == pytest.approx(whole["predicted_score"].to_list(), abs=1e-6)
    noted = json.loads(pq.read_schema(images.with_name("out.parquet")).metadata[b"rag_clip"])["head"]
    assert (noted["name"], noted["support"]["images"], noted["support"]["missing"]) == ("evidence", 24, 0)
    assert noted["support"]["parts"][0]["weights"] == {
        "shot": 1.0,
        "corrected": 2.0,
        "retrieved": 0.5,
        "synthesised": 0.25,
    }


def test_the_file_and_the_support_are_evidence_together(images: Path, support: Path) -> None:
    head = head_on(support.with_name("evidence.safetensors"))
    alone, together = predictions(images, head), predictions(images, head, refine=True)
    batches = predictions(images, head, refine=True, batch_size=7)
    assert together["predicted_label_alone"].equals(alone["predicted_label"])
    assert batches["predicted_score"].to_list() == pytest.approx(together["predicted_score"].to_list(), abs=1e-5)

    def right(table: pl.DataFrame, column: str = "predicted_label") -> float:
        return table.select((pl.col("label") == pl.col(column)).mean()).item()

    without = predictions(images, None, refine=True)
    assert right(together) >= max(right(alone), right(without))
    weight = json.loads(pq.read_schema(images.with_name("out.parquet")).metadata[b"rag_clip"])["refined"]["weight"]
    assert 0 < weight < 1 / 50


def test_sums_are_refused_where_images_are_needed_and_where_they_do_not_fit(support: Path) -> None:
    sums = support.with_name("evidence.safetensors")
    with pytest.raises(ValueError, match="holds sums of images, and ridge needs the images themselves"):
        prepare_head("ridge", sums, labels=LABELS, encoder=ENCODER)
    with pytest.raises(ValueError, match="the evidence was made with toy"):
        prepare_head("evidence", sums, labels=LABELS, encoder=ToyEncoder(dim=16))
    with pytest.raises(ValueError, match=r"evidence.safetensors has other classes \('blue' is in one of them only\)"):
        prepare_head("evidence", sums, labels=LabelSet(("red", "green", "grey")), encoder=ENCODER)
    with pytest.raises(ValueError, match="were weighed when it was made; leave the settings of the head out"):
        prepare_head("evidence", sums, labels=LABELS, encoder=ENCODER, options={"retrieved": 1.0})
    moved = prepare_head("evidence", sums, labels=LabelSet(("blue", "red", "green")), encoder=ENCODER)
    assert moved.facts["support"]["images"] == 24


def test_evaluate_measures_what_classify_writes_and_shots_beside_the_measured_images(
    images: Path, support: Path, tmp_path: Path
) -> None:
    sums = support.with_name("evidence.safetensors")
    choice = HeadChoice("evidence", sums, floor=False)
    few = FewShot(("evidence",), (1, 4), floor=False)
    summary = evaluate(
        images,
        prompts={"names": colour_prompts(*NAMES)},
        output=tmp_path / "results.parquet",
        encoder=ENCODER,
        heads=Heads([choice], few, refine=True),
        running=Running(0),
    )
    found = {result.run: result for result in summary.results}
    assert {run: result.tier for run, result in found.items()} == {
        "names": "T0",
        "names + refined": "T0+T2",
        "names + evidence": "T1+FS",
        "names + evidence + refined": "T1+T2+FS",
        "names + evidence, 1 shots": "T0+FS",
        "names + evidence, 1 shots + refined": "T0+T2+FS",
        "names + evidence, 4 shots": "T0+FS",
        "names + evidence, 4 shots + refined": "T0+T2+FS",
    }
    written = predictions(images, head_on(sums), refine=True)
    right = (written["label"] == written["predicted_label"]).mean()
    assert found["names + evidence + refined"].main.value == pytest.approx(right)
    facts = found["names + evidence"].settings.head
    assert facts is not None
    assert (facts.origins, facts.support and facts.support.images) == ({"shot": 12, "retrieved": 12}, 24)
    for shots in (1, 4):
        refined, alone = (found[f"names + evidence, {shots} shots{more}"].main.value for more in (" + refined", ""))
        assert refined >= alone
    with pytest.raises(ValueError, match="ridge needs the images themselves"):
        evaluate(
            images,
            prompts=colour_prompts(*NAMES),
            output=tmp_path / "results.parquet",
            encoder=ENCODER,
            heads=Heads([HeadChoice("ridge", sums)]),
            running=Running(0),
        )


def test_the_command_sums_support_files_and_classifies_by_the_sums(tmp_path: Path) -> None:
    pictures, names = noisy_pictures(24)
    write_images(tmp_path / "images.parquet", pictures, label=names)
    (tmp_path / "labels.txt").write_text("\n".join(NAMES))
    write_prompts(replace(colour_prompts(*NAMES), provenance={"method": "names"}), tmp_path / "prompts.parquet")
    shots = "support shots images.parquet --labels labels.txt -k 2 --views 0 --model demo --workers 0 -o s.parquet"
    assert command(*shots.split(), folder=tmp_path).code == 0
    made = command("support", "evidence", "s.parquet", "-o", "sums.safetensors", "--json", folder=tmp_path)
    assert made.code == 0, made.errors
    facts = json.loads(made.out)
    assert (facts["images"], facts["weights"], facts["missing"]) == ({"shot": 6}, {"shot": 6.0}, [])
    again = command("support", "evidence", "sums.safetensors", "-o", "sums.safetensors", folder=tmp_path)
    assert again.code == 1
    assert "is one of the inputs" in again.errors
    options = "--prompts prompts.parquet --support sums.safetensors --model demo --workers 0 --refine -o out.parquet"
    found = command("classify", "images.parquet", *options.split(), folder=tmp_path)
    assert found.code == 0, found.errors
    assert "head: evidence, the default with a support file" in found.out + found.errors
    assert "predicted_label_alone" in pl.read_parquet_schema(tmp_path / "out.parquet")

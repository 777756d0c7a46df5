"""The hub correction in classify and evaluate, by a support file and by an index of images."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch

from inputs.command_line import run as command
from inputs.pictures import colour_prompts, noisy_pictures, write_images
from rag_clip.classifiers.hubs import HubBank, correct_hubs
from rag_clip.classifiers.match import Scoring
from rag_clip.classifiers.prepared import prepare_head
from rag_clip.classifiers.reuse import Reuse
from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import Features, LabelSet, Prompts, Support
from rag_clip.evaluation.shot_runs import Heads
from rag_clip.files.prompts import write_prompts
from rag_clip.files.support import read_support, write_support
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.evaluate import evaluate
from rag_clip.pipelines.images import index_images
from rag_clip.pipelines.running import Running
from rag_clip.testing import ToyEncoder

NAMES = ("red", "green", "blue")
LABELS, ENCODER, PROMPTS = LabelSet(NAMES), ToyEncoder(), colour_prompts(*NAMES)
PICTURES, TRUTH = noisy_pictures(60)


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    pictures, names = noisy_pictures(30, seed=4)
    support = Support(
        LABELS, ENCODER.encode_images(pictures).pooled, torch.eye(3)[[NAMES.index(name) for name in names]],
        torch.ones(30), ("shot",) * 30, tuple(map(str, range(30))), {"encoder": asdict(ENCODER.fingerprint)},
    )  # fmt: skip
    write_support(support, tmp_path / "bank.parquet")
    return tmp_path / "bank.parquet"


def test_classify_and_evaluate_correct_the_logits_by_a_bank(bank: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images.parquet", PICTURES, label=TRUTH)
    scoring = Scoring(hub_bank=HubBank(bank))
    written = classify(
        images, prompts=PROMPTS, output=tmp_path / "out.parquet", encoder=ENCODER, scoring=scoring, running=Running(0)
    )
    corrected = correct_hubs(zero_shot(PROMPTS, ENCODER), HubBank(bank).read(ENCODER.fingerprint))
    expected = corrected(Features(ENCODER.encode_images(PICTURES).pooled)).softmax(1).max(1)
    table = written.to_polars()
    assert table["predicted_label"].to_list() == [NAMES[row] for row in expected.indices.tolist()]
    assert table["predicted_score"].to_list() == pytest.approx(expected.values.tolist(), abs=1e-5)
    facts = json.loads(pq.read_schema(written.output).metadata[b"rag_clip"])
    assert facts["hub_bank"] == {"place": str(bank), "weight": 0.5}
    summary = evaluate(
        images, prompts={"names": PROMPTS}, output=tmp_path / "r.parquet", encoder=ENCODER,
        heads=Heads(hub_bank=HubBank(bank), refine=True), running=Running(0),
    )  # fmt: skip
    found = {result.run: result for result in summary.results}
    assert {run: result.tier for run, result in found.items()} == {
        "names": "T0", "names + refined": "T0+T2", "names + hub": "T1", "names + hub + refined": "T1+T2",
    }  # fmt: skip
    right = (table["predicted_label"] == table["label"]).mean()
    assert found["names + hub"].main.value == pytest.approx(right)
    assert found["names + hub"].settings.hub_bank == str(bank)
    with pytest.raises(ValueError, match="leave out the bank, or the head"):
        classify(
            images, prompts=PROMPTS, output=tmp_path / "out.parquet", encoder=ENCODER, scoring=scoring,
            head=prepare_head("ridge", bank, labels=LABELS, encoder=ENCODER), running=Running(0),
        )  # fmt: skip
    with pytest.raises(ValueError, match="leaves the level of sigmoid scores open"):
        Scoring(scores="sigmoid", hub_bank=HubBank(bank))


def test_images_that_count_for_nothing_are_not_in_the_bank(bank: Path, tmp_path: Path) -> None:
    support = read_support(bank)
    relevance = torch.linspace(0, 1, 30).where(torch.arange(30) % 3 > 0, 0.0)
    write_support(replace(support, relevance=relevance), tmp_path / "some.parquet")
    found = torch.cat(list(HubBank(tmp_path / "some.parquet").read(ENCODER.fingerprint)))
    assert torch.equal(found, support.features[[row for row in range(30) if row % 3]])
    write_support(replace(support, relevance=torch.zeros(30)), tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="the bank has no image"):
        correct_hubs(zero_shot(PROMPTS, ENCODER), HubBank(tmp_path / "none.parquet").read(ENCODER.fingerprint))


def test_the_command_takes_an_index_of_images_and_refuses_one_of_captions(tmp_path: Path) -> None:
    write_images(tmp_path / "images.parquet", PICTURES[:12], caption=TRUTH[:12])
    write_prompts(Prompts(PROMPTS.labels, PROMPTS.texts, {"method": "names"}), tmp_path / "prompts.parquet")
    pq.write_table(pq.read_table(tmp_path / "images.parquet").select(["caption"]), tmp_path / "captions.parquet")
    for made in (
        "index images images.parquet --index pictures --model demo --workers 0 --cleaning none",
        "index build captions.parquet --index captions --model demo --cleaning none",
    ):
        done = command(*made.split(), folder=tmp_path)
        assert done.code == 0, done.errors
    asked = "classify images.parquet --prompts prompts.parquet --model demo --workers 0 -o out.parquet --hub-bank"
    done = command(*asked.split(), "pictures", folder=tmp_path)
    assert done.code == 0, done.errors
    assert pl.read_parquet(tmp_path / "out.parquet")["label"].null_count() == 0
    refused = command(*asked.split(), "captions", folder=tmp_path)
    assert (refused.code, "the index has no vector 'image'" in refused.errors) == (1, True), refused.errors


def test_another_bank_in_the_same_place_is_measured_anew(bank: Path, tmp_path: Path) -> None:
    place = HubBank(tmp_path / "bank")
    facts = []
    for pictures in (noisy_pictures(5, seed=5)[0], noisy_pictures(6, seed=6)[0]):
        images = write_images(tmp_path / f"{len(pictures)}.parquet", pictures, caption=["x"] * len(pictures))
        index_images([images], index=tmp_path / "bank", encoder=ENCODER, running=Running(0))
        facts.append(place.facts())
    assert facts[0] != facts[1]
    assert place.facts() == facts[1]
    assert HubBank(bank).facts() != facts[1]


def test_a_bank_that_no_run_uses_is_refused(bank: Path, tmp_path: Path) -> None:
    rows = np.eye(3, 32, dtype=np.float32)
    np.savez(tmp_path / "f.npz", image=rows, text=rows[None], label=[0, 1, 2], classes=NAMES, scale=20.0)
    with pytest.raises(ValueError, match="the hub correction is of the texts of prompts; give prompts, and the model"):
        evaluate(tmp_path / "f.npz", output=tmp_path / "r.parquet", heads=Heads(hub_bank=HubBank(bank)))
    assert not (tmp_path / "r.parquet").exists()


def test_a_missing_bank_ends_a_run_before_any_image_is_encoded(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images.parquet", PICTURES)
    for prompts in (PROMPTS, {"a": PROMPTS, "b": colour_prompts(*NAMES)}):
        with pytest.raises((ValueError, OSError), match=r"gone\.parquet"):
            classify(
                images, prompts=prompts, output=tmp_path / "o.parquet", encoder=ENCODER, running=Running(0),
                scoring=Scoring(hub_bank=HubBank(tmp_path / "gone.parquet")), reuse=Reuse(features_dir=tmp_path / "f"),
            )  # fmt: skip
        assert not list((tmp_path / "f").glob("**/*.parquet"))

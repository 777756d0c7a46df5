"""Which part of a decision is owed to texts, labelled images, found images, the file and the prior."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import polars as pl
import pytest
import torch

from inputs.command_line import run as command
from inputs.pictures import colour_prompts, noisy_pictures, write_images
from rag_clip.classifiers.match import Scoring
from rag_clip.classifiers.prepared import prepare_head
from rag_clip.data import LabelSet, Support
from rag_clip.files.prompts import write_prompts
from rag_clip.files.support import write_support
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.explain import Beside, explain
from rag_clip.pipelines.running import Running
from rag_clip.pipelines.unlabelled import Unlabelled
from rag_clip.testing import ToyEncoder

NAMES = ("red", "green", "blue")
LABELS, ENCODER, PROMPTS = LabelSet(NAMES), ToyEncoder(), colour_prompts(*NAMES)
PICTURES, TRUTH = noisy_pictures(90)


def support_file(folder: Path, *, classes: int = 3) -> Path:
    pictures, names = noisy_pictures(24, seed=7)
    kept = [row for row, name in enumerate(names) if NAMES.index(name) < classes]
    rows = Support(
        LABELS,
        ENCODER.encode_images([pictures[row] for row in kept]).pooled,
        torch.eye(3)[[NAMES.index(names[row]) for row in kept]],
        torch.ones(len(kept)),
        tuple("shot" if number % 2 else "retrieved" for number in range(len(kept))),
        tuple(map(str, kept)),
        {"encoder": asdict(ENCODER.fingerprint), "method": "merged"},
    )
    write_support(rows, folder / "support.parquet")
    return folder / "support.parquet"


@pytest.mark.parametrize("row", [0, 1, 40])
def test_parts_add_up_to_what_classify_scores(tmp_path: Path, row: int) -> None:
    images = write_images(tmp_path / "images.parquet", PICTURES)
    support = support_file(tmp_path)
    beside = Beside(support, Unlabelled(images, tmp_path / "features"), floor=False)
    found = explain(PROMPTS, image=PICTURES[row], encoder=ENCODER, beside=beside).image
    assert found is not None
    assert [part.source for part in found.sources] == ["text", "shot", "retrieved", "batch", "prior"]
    assert sum(part.gap for part in found.sources) == pytest.approx(found.gap, abs=1e-3)
    for place in (0, 1):
        assert sum(part.shares[place] for part in found.sources if part.shares) == pytest.approx(1)
    head = prepare_head("evidence", support, labels=LABELS, encoder=ENCODER).without_floor()
    written = classify(
        images, prompts=PROMPTS, output=tmp_path / "p.parquet", encoder=ENCODER, head=head,
        scoring=Scoring(refine=True), running=Running(0),
    ).to_polars()  # fmt: skip
    assert written["label"][row] == found.winner.label
    assert written["score"][row] == pytest.approx(found.winner.probability, abs=1e-4)
    assert found.winner.alone - found.rival.alone == pytest.approx(
        sum(text.lift for text in found.winner.texts) - sum(text.lift for text in found.rival.texts)
    )


def test_without_the_file_there_is_no_batch_and_no_prior(tmp_path: Path) -> None:
    beside = Beside(support_file(tmp_path), floor=False)
    found = explain(PROMPTS, "green", image=PICTURES[0], encoder=ENCODER, beside=beside).image
    assert found is not None
    assert [part.source for part in found.sources] == ["text", "shot", "retrieved"]
    assert sum(part.gap for part in found.sources) == pytest.approx(found.gap, abs=1e-3)
    alone = explain(PROMPTS, image=PICTURES[0], encoder=ENCODER).image
    assert alone is not None
    assert (alone.sources, alone.winner.logit) == ((), alone.winner.alone)


def test_a_class_without_images_has_a_rest(tmp_path: Path) -> None:
    beside = Beside(support_file(tmp_path, classes=2), floor=False)
    found = explain(PROMPTS, "blue", image=PICTURES[0], encoder=ENCODER, beside=beside).image
    assert found is not None
    assert found.rival.label == "blue"
    assert [part.source for part in found.sources] == ["text", "shot", "retrieved", "rest"]
    assert found.sources[1].rival == found.sources[2].rival == 0
    assert sum(part.gap for part in found.sources) == pytest.approx(found.gap, abs=1e-9)


def test_evidence_needs_an_image_to_explain(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="evidence of images decides the class of an image; give one"):
        explain(PROMPTS, "red", encoder=ENCODER, beside=Beside(support_file(tmp_path)))


def test_the_command_says_the_parts_in_a_table_in_json_and_on_the_page(tmp_path: Path) -> None:
    write_images(tmp_path / "images.parquet", PICTURES[:40], label=TRUTH[:40])
    (tmp_path / "labels.txt").write_text("\n".join(NAMES))
    write_prompts(PROMPTS.__class__(PROMPTS.labels, PROMPTS.texts, {"method": "names"}), tmp_path / "prompts.parquet")
    shots = "support shots images.parquet --labels labels.txt -k 2 --views 0 --model demo --workers 0 -o s.parquet"
    assert command(*shots.split(), folder=tmp_path).code == 0
    asked = "--prompts prompts.parquet --images images.parquet --row 3 --support s.parquet --refine --html why.html"
    made = command("explain", *asked.split(), "--model", "demo", "--json", folder=tmp_path)
    assert made.code == 0, made.errors
    image = json.loads(made.out)["image"]
    parts = {part["source"]: part["gap"] for part in image["sources"]}
    assert {"text", "shot", "batch", "prior"} <= set(parts)
    assert sum(parts.values()) == pytest.approx(image["gap"], abs=2e-3)
    page = (tmp_path / "why.html").read_text()
    assert "What decided" in page
    for source, gap in parts.items():
        assert f"<td>{gap:+.4f}</td>" in page
        assert source in page
    said = command("explain", *asked.split()[:-2], "--model", "demo", folder=tmp_path)
    assert re_gap(said.out) == pytest.approx(image["gap"], abs=1e-3)
    refused = command("explain", "red", "--prompts", "prompts.parquet", "--refine", "--model", "demo", folder=tmp_path)
    assert refused.code == 1
    assert "give --images FILE and --row N" in refused.errors
    for unused in (["--features", "kept"], ["--support", "s.parquet"], ["--no-floor"]):
        refused = command("explain", "red", "--prompts", "prompts.parquet", *unused, "--model", "demo", folder=tmp_path)
        assert refused.code == 1
        assert re.search(rf"{unused[0]} .*give|{unused[0]} .*add it", refused.errors)
        assert "loading" not in refused.errors
    assert pl.read_parquet(tmp_path / "images.parquet").height == 40


def re_gap(out: str) -> float:
    """Return the gap in the last sentence."""
    return float(out.split("= gap ")[1].split(",")[0])

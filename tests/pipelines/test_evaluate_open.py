"""Runs of evaluate in which a third of the classes is held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from inputs.command_line import run as command
from inputs.pictures import colour_prompts, noisy_pictures, write_images
from rag_clip.data import Prompts
from rag_clip.evaluation.results import read_results
from rag_clip.evaluation.rival_names import Candidates
from rag_clip.evaluation.shot_runs import Heads
from rag_clip.files.prompts import write_prompts
from rag_clip.pipelines.evaluate import EvaluateSummary, evaluate
from rag_clip.pipelines.running import Running
from rag_clip.report.evaluation import write_evaluation
from rag_clip.testing import ToyEncoder

NAMES, ENCODER = ("red", "green", "blue"), ToyEncoder()
WORDS = Candidates("words.txt", ("red", "green", "blue", "sea", "sky", "a green sea"))


def images(folder: Path, count: int = 120) -> Path:
    pictures, names = noisy_pictures(count)
    return write_images(folder / "images.parquet", pictures, label=names)


def test_novelty_is_measured_beside_its_baselines_as_a_run_of_its_own(tmp_path: Path) -> None:
    source = images(tmp_path)

    def measure(names: Candidates) -> EvaluateSummary:
        return evaluate(
            source,
            prompts={"names": colour_prompts(*NAMES)},
            output=tmp_path / "r.parquet",
            encoder=ENCODER,
            heads=Heads(negatives=names),
            running=Running(0),
        )

    summary = measure(WORDS)
    assert [(result.run, result.tier) for result in summary.results] == [("names", "T0"), ("names + open", "T1")]
    plain, opened = summary.results
    assert opened.main.metric == "roc_auc"
    ways = ["", "NegLabel, all at once", "maximum softmax (MCM)", "maximum logit"]
    assert [each.item for each in opened.measures if each.metric == "roc_auc"] == ways
    assert [each.item for each in opened.measures if each.metric == "fpr95"] == ways
    assert opened.main.value > 0.9  # the held-out colour is among the words, which say so
    assert opened.main.value > opened.get("roc_auc", "maximum softmax (MCM)").value  # type: ignore[union-attr]
    assert opened.settings.held_out is not None
    assert (opened.settings.held_out.classes, opened.settings.held_out.draws) == (1, 10)
    assert opened.settings.low_high
    assert read_results(tmp_path / "r.parquet")[1].settings == opened.settings
    again = measure(WORDS)
    assert (again.measured, again.found) == (0, 2)
    assert measure(Candidates("words.txt", ("sea", "sky"))).measured == 1
    assert np.isfinite([each.value for each in opened.measures]).all()
    write_evaluation(tmp_path / "page.html", summary.results)
    page = (tmp_path / "page.html").read_text()
    assert "How well images of unknown classes are told" in page
    assert f"{opened.main.value:.3f}" in page
    write_evaluation(tmp_path / "only.html", [opened])
    assert plain.main.metric == "accuracy"


def test_two_classes_and_words_that_say_nothing_new_are_refused(tmp_path: Path) -> None:
    source = images(tmp_path)
    table = pl.read_parquet(source).filter(pl.col("label") != "blue")
    table.write_parquet(tmp_path / "two.parquet")
    for place, names, words, reason in (
        (tmp_path / "two.parquet", NAMES[:2], WORDS, "a third of 2 classes cannot be held out"),
        (source, NAMES, Candidates("words.txt", ("red", "a green one")), "has no names except|shares words"),
    ):
        with pytest.raises(ValueError, match=reason):
            evaluate(
                place, prompts=colour_prompts(*names), output=tmp_path / "r.parquet", encoder=ENCODER,
                heads=Heads(negatives=words), running=Running(0),
            )  # fmt: skip


def test_the_command_reads_a_word_list(tmp_path: Path) -> None:
    images(tmp_path, 30)
    names = colour_prompts(*NAMES)
    write_prompts(Prompts(names.labels, names.texts, {"method": "names"}), tmp_path / "prompts.parquet")
    (tmp_path / "words.txt").write_text("\n".join(WORDS.names))
    asked = "evaluate images.parquet --prompts prompts.parquet --model demo --workers 0 --open words.txt --refine"
    done = command(*asked.split(), folder=tmp_path)
    assert done.code == 0, done.errors
    assert set(pl.read_parquet(tmp_path / "results.parquet")["run"]) == {
        "prompts",
        "prompts + refined",
        "prompts + open",
    }
    assert "FPR95" in done.out + done.errors


def test_names_of_other_things_that_no_run_uses_are_refused(tmp_path: Path) -> None:
    features = np.eye(3, 32, dtype=np.float32)
    np.savez(tmp_path / "f.npz", image=features, text=features[None], label=[0, 1, 2], classes=NAMES, scale=20.0)
    with pytest.raises(ValueError, match="names of other things are compared with prompts, on images of one label"):
        evaluate(tmp_path / "f.npz", output=tmp_path / "r.parquet", heads=Heads(negatives=WORDS))
    assert not (tmp_path / "r.parquet").exists()

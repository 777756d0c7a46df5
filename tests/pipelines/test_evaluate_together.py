"""Runs of evaluate in which the unlabelled images of a task decide together."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import polars as pl
import pytest

from inputs.command_line import run as command
from inputs.pictures import colour_prompts, meaningless_prompts, noisy_pictures, write_images
from rag_clip.classifiers.match import Scoring
from rag_clip.data import Prompts
from rag_clip.evaluation.shot_runs import Heads
from rag_clip.files.prompts import write_prompts
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.evaluate import evaluate
from rag_clip.pipelines.running import Running
from rag_clip.testing import ToyEncoder

NAMES = ("red", "green", "blue")
ENCODER = ToyEncoder()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    pictures, names = noisy_pictures(240)
    return write_images(tmp_path / "images.parquet", pictures, label=names)


def accuracy(place: Path, run: str) -> float:
    rows = pl.read_parquet(place).filter((pl.col("run") == run) & (pl.col("metric") == "accuracy"))
    return float(rows["value"][0])


def test_chosen_and_refined_runs_equal_what_classify_writes_and_have_a_tier(images: Path, tmp_path: Path) -> None:
    prompts = {"nothing": meaningless_prompts(*NAMES), "names": colour_prompts(*NAMES)}
    output = tmp_path / "results.parquet"
    measure = partial(evaluate, images, prompts=prompts, output=output, encoder=ENCODER, running=Running(0))
    summary = measure(heads=Heads(choose=True, refine=True))
    tiers = {result.run: result.tier for result in summary.results}
    assert tiers == {
        "nothing": "T0", "nothing + refined": "T0+T2", "names": "T0", "names + refined": "T0+T2",
        "chosen by images": "T0+T2", "chosen by images + refined": "T0+T2",
    }  # fmt: skip
    assert accuracy(output, "chosen by images") == accuracy(output, "names")
    written = classify(
        images, prompts=prompts["names"], output=tmp_path / "p.parquet", encoder=ENCODER,
        scoring=Scoring(refine=True), running=Running(0),
    ).to_polars()  # fmt: skip
    right = written["label"] == written["predicted_label"]
    assert accuracy(output, "names + refined") == pytest.approx(right.mean())
    again = measure(heads=Heads(choose=True, refine=True))
    assert (again.measured, again.found) == (0, 6)


def test_labels_change_no_choice(images: Path, tmp_path: Path) -> None:
    pictures, names = noisy_pictures(240)
    wrong = write_images(tmp_path / "wrong.parquet", pictures, label=[*names[1:], names[0]])
    prompts = {"names": colour_prompts(*NAMES), "nothing": meaningless_prompts(*NAMES)}
    for place in (images, wrong):
        output = tmp_path / f"{place.stem}-results.parquet"
        evaluate(place, prompts=prompts, output=output, encoder=ENCODER, heads=Heads(choose=True), running=Running(0))
        assert accuracy(output, "chosen by images") == accuracy(output, "names")


def test_the_command_knows_both(images: Path, tmp_path: Path) -> None:
    for name, prompts in (("names", colour_prompts(*NAMES)), ("nothing", meaningless_prompts(*NAMES))):
        write_prompts(Prompts(prompts.labels, prompts.texts, {"method": name}), tmp_path / f"prompts-{name}.parquet")
    arguments = ["evaluate", images.name, "--prompts", "prompts-names.parquet", "prompts-nothing.parquet"]
    found = command(*arguments, "--model", "demo", "--choose", "--refine", "--workers", "0", folder=tmp_path)
    assert found.code == 0, found.errors
    assert set(pl.read_parquet(tmp_path / "results.parquet")["run"]) == {
        "names", "names + refined", "nothing", "nothing + refined", "chosen by images", "chosen by images + refined",
    }  # fmt: skip


def test_a_file_that_images_chose_keeps_their_mark(images: Path, tmp_path: Path) -> None:
    names = colour_prompts(*NAMES)
    chosen = Prompts(names.labels, names.texts, {"method": "chosen", "chosen": {"images": 240}})
    summary = evaluate(images, prompts=chosen, output=tmp_path / "r.parquet", encoder=ENCODER, running=Running(0))
    assert [result.tier for result in summary.results] == ["T0+T2"]


def test_a_further_encoder_makes_a_refined_run_another(images: Path, tmp_path: Path) -> None:
    measure = partial(
        evaluate, images, prompts={"names": colour_prompts(*NAMES)}, output=tmp_path / "r.parquet", encoder=ENCODER,
        running=Running(0),
    )  # fmt: skip
    alone = measure(heads=Heads(refine=True))
    second = {"second": ToyEncoder(dim=8, name="second")}
    both = measure(heads=Heads(refine=True, others=second))
    assert (both.measured, both.found) == (1, 1)
    assert [result.tier for result in both.results] == ["T0", "T0+T2+T3"]
    assert both.results[1].settings.refined_with == ("second",)
    assert alone.results[1].settings.refined_with is None
    again = measure(heads=Heads(refine=True, others={"second": ToyEncoder(dim=9, name="second")}))
    assert again.measured == 1

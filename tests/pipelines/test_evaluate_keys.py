"""What decides whether evaluate measures a run again, and that a run cut short is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inputs.pictures import picture, write_images
from inputs.tasks import ENCODER, LABELS, colour_task, prompt_files
from rag_clip.evaluation.image_tasks import ImageTask
from rag_clip.evaluation.results import read_results, runs_folder
from rag_clip.evaluation.runs import plan_runs
from rag_clip.pipelines.evaluate import evaluate
from rag_clip.pipelines.running import Running
from rag_clip.progress import ProgressEvent


def test_the_same_call_measures_nothing_and_a_new_prompts_file_alone_is_measured(tmp_path: Path) -> None:
    task, texts, output = colour_task(tmp_path), prompt_files(tmp_path), tmp_path / "results.parquet"
    first = evaluate([task], prompts=texts[:1], output=output, encoder=ENCODER, running=Running(0))
    second = evaluate([task], prompts=texts, output=output, encoder=ENCODER, running=Running(0))
    third = evaluate([task], prompts=texts, output=output, encoder=ENCODER, running=Running(0))
    assert [(one.measured, one.found) for one in (first, second, third)] == [(1, 0), (1, 1), (0, 2)]
    assert [result.measures for result in third.results] == [result.measures for result in second.results]


def test_a_run_cut_short_is_measured_again_and_finished_ones_are_not(tmp_path: Path) -> None:
    task, texts, output = colour_task(tmp_path), prompt_files(tmp_path), tmp_path / "results.parquet"

    def stop(event: ProgressEvent) -> None:
        if event.item is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate([task], prompts=texts, output=output, encoder=ENCODER, running=Running(0, report=stop))
    again = evaluate([task], prompts=texts, output=output, encoder=ENCODER, running=Running(0))
    assert (again.measured, again.found) == (1, 1)


@pytest.mark.parametrize("harm", ["numbers lost", "numbers cut", "answers cut"])
def test_a_run_kept_in_part_is_measured_again(tmp_path: Path, harm: str) -> None:
    task, texts, output = colour_task(tmp_path), prompt_files(tmp_path)[:1], tmp_path / "results.parquet"
    first = evaluate([task], prompts=texts, output=output, encoder=ENCODER, running=Running(0)).results
    kept = runs_folder(output) / f"{first[0].key}{'.images' if harm == 'answers cut' else ''}.parquet"
    content = kept.read_bytes()
    kept.unlink()
    if harm != "numbers lost":
        kept.write_bytes(content[:-9])
    again = evaluate([task], prompts=texts, output=output, encoder=ENCODER, running=Running(0))
    assert (again.measured, again.results[0].measures) == (1, first[0].measures)
    assert evaluate([task], prompts=texts, output=output, encoder=ENCODER, running=Running(0)).found == 1


def test_runs_of_the_same_texts_share_their_numbers_and_keep_their_own_name_tier_and_settings(tmp_path: Path) -> None:
    task, (good, _), output = colour_task(tmp_path), prompt_files(tmp_path), tmp_path / "results.parquet"
    facts = {**good.prompts.provenance, "index": "captions"}
    found = replace(good, name="found", path=tmp_path / "f", prompts=replace(good.prompts, provenance=facts))
    summary = evaluate([task], prompts=[good, found], output=output, encoder=ENCODER, running=Running(0))
    assert (summary.measured, summary.found) == (1, 1)
    one, other = read_results(output)
    assert [(each.run, each.tier, each.settings.prompts.index) for each in (one, other)] == [
        ("good", "T0", ""),
        ("found", "T1", "captions"),
    ]
    assert one.measures == other.measures == summary.results[0].measures


@pytest.mark.parametrize("change", ["encoder", "images", "groups"])
def test_what_decides_the_numbers_decides_what_is_run_again(tmp_path: Path, change: str) -> None:
    task, texts, output = colour_task(tmp_path), prompt_files(tmp_path)[:1], tmp_path / "results.parquet"
    evaluate([task], prompts=texts, output=output, encoder=ENCODER, running=Running(0))
    encoder = replace(ENCODER, dim=40) if change == "encoder" else ENCODER
    if change == "encoder":
        texts = [replace(texts[0], prompts=replace(texts[0].prompts, provenance={"encoder": {}, "method": "x"}))]
    if change == "images":
        write_images(Path(task.paths[0]), [picture("red")], label=["red"])
    if change == "groups":
        task = replace(task, labels=replace(LABELS, groups=("a", "a", "b")))
    assert evaluate([task], prompts=texts, output=output, encoder=encoder, running=Running(0)).measured == 1


def test_synonyms_of_prompts_decide_what_is_run_again(tmp_path: Path) -> None:
    task, texts, output = colour_task(tmp_path), prompt_files(tmp_path)[:1], tmp_path / "results.parquet"
    first = evaluate([task], prompts=texts, output=output, encoder=ENCODER, running=Running(0))
    labels = replace(LABELS, synonyms=(("scarlet",), (), ()))
    told = [replace(texts[0], prompts=replace(texts[0].prompts, labels=labels))]
    second = evaluate([task], prompts=told, output=output, encoder=ENCODER, running=Running(0))
    assert [one.results[0].series("swap_recall") for one in (first, second)] == [{}, {"red → scarlet": 0.0}]


def test_an_index_decides_the_numbers_of_prompts_that_quote_captions_alone(tmp_path: Path) -> None:
    task, texts = colour_task(tmp_path), prompt_files(tmp_path)
    plans = [plan_runs(task, texts, (), encoder=ENCODER.fingerprint, index=index) for index in (None, "captions")]
    (good, quoting), (good_too, quoting_too) = plans
    assert good == good_too
    assert quoting.key != quoting_too.key
    assert [one.settings.vectors for one in (quoting, quoting_too)] == [None, "captions"]


def test_text_features_are_of_a_known_tier_where_the_file_says_their_template(tmp_path: Path) -> None:
    eye = np.eye(3)
    np.savez(
        tmp_path / "f.npz", image=eye, label=[0, 1, 2], classes=LABELS.names, text=np.stack([eye, eye]),
        templates=["text {}"], scale=9.0,
    )  # fmt: skip
    runs = plan_runs(ImageTask("f", (tmp_path / "f.npz",), LABELS), (), (), encoder=None)
    assert [(run.name, run.tier) for run in runs] == [("text {}", "T0"), ("text 1", "T?")]
    assert runs[0].key != runs[1].key

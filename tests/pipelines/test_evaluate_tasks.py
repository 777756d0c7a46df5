"""Tasks of evaluate that are files of features or TOML, what `check` finds in them, and two results files compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from inputs.results import COUNTS, SETTINGS
from inputs.tasks import ENCODER, LABELS, colour_task, prompt_files
from rag_clip.data import Fingerprint, LabelSet, Support
from rag_clip.evaluation.check import check_evaluation
from rag_clip.evaluation.compare import compare_results
from rag_clip.evaluation.head_choices import choose_heads
from rag_clip.evaluation.image_tasks import image_task, open_tasks
from rag_clip.evaluation.results import Measure, Result, read_results
from rag_clip.evaluation.runs import read_prompt_files, unused_prompts
from rag_clip.evaluation.shot_runs import Heads
from rag_clip.files.labels import write_labels
from rag_clip.files.prompts import write_prompts
from rag_clip.files.support import write_support
from rag_clip.pipelines.evaluate import evaluate
from rag_clip.pipelines.running import Running
from rag_clip.progress import ProgressEvent
from rag_clip.prompts.templates import template_prompts
from rag_clip.report.evaluation import write_comparison


def features_file(path: Path) -> Path:
    """Write four images of two classes, and text by two templates: the second swaps the classes."""
    eye = np.eye(2, dtype=np.float16)
    np.savez(
        path, image=eye[[0, 1, 0, 1]], label=[0, 1, 0, 1], classes=["cat", "dog"], text=np.stack([eye, eye[::-1]]),
        templates=["a {}", "not a {}"],
    )  # fmt: skip
    return path


def test_a_features_file_is_measured_by_its_own_text_without_an_encoder(tmp_path: Path) -> None:
    opened = open_tasks([features_file(tmp_path / "pets.npz")])
    tasks = [image_task(*one) for one in opened]
    scaled = [[replace(task, scale=scale) for task in tasks] for scale in (100.0, 50.0)]
    summary = evaluate(scaled[0], output=tmp_path / "r.parquet")
    found = [(one.task, one.run, one.tier, one.main.metric, one.main.value) for one in summary.results]
    assert found == [("pets", "a {}", "T0", "accuracy", 1.0), ("pets", "not a {}", "T0", "accuracy", 0.0)]
    assert evaluate(scaled[0], output=tmp_path / "r.parquet").measured == 0
    assert evaluate(scaled[1], output=tmp_path / "r.parquet").measured == 2
    with pytest.raises(ValueError, match="does not record the scale of its encoder; give it \\(--scale 100"):
        evaluate(tasks, output=tmp_path / "r.parquet")


def test_a_task_file_names_files_classes_and_the_metric_that_comes_first(tmp_path: Path) -> None:
    colour_task(tmp_path)
    write_labels(LABELS, tmp_path / "labels.json")
    (tmp_path / "task.toml").write_text(
        'name = "Colours"\nmetric = "mean_per_class"\nlabels = "labels.json"\nsplits = { test = "colours.parquet" }\n'
    )
    opened = open_tasks([tmp_path / "task.toml"], folder=tmp_path)
    assert check_evaluation(opened) == ()
    tasks = [image_task(*one) for one in opened]
    with pytest.raises(ValueError, match="name the model"):
        evaluate(tasks, prompts=prompt_files(tmp_path), output=tmp_path / "r.parquet")
    summary = evaluate(
        tasks, prompts=prompt_files(tmp_path), output=tmp_path / "r.parquet", encoder=ENCODER, running=Running(0)
    )
    bad = summary.results[1]
    assert (bad.task, bad.main.metric, bad.main.value) == ("Colours", "mean_per_class", pytest.approx(2 / 3))


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    places = [features_file(tmp_path / folder / "pets.npz") for folder in ("one", "two")]
    opened = open_tasks([*places, features_file(tmp_path / "cars.npz")])
    assert [task.name for task, _folder in opened] == ["one/pets", "two/pets", "cars"]


def test_what_cannot_be_measured_is_said_before_any_work(tmp_path: Path) -> None:
    gone = open_tasks([tmp_path / "gone.parquet"], labels=LABELS)[0]
    with pytest.raises(FileNotFoundError, match=r"gone: there is no .*gone\.parquet to measure on"):
        image_task(*gone)
    with pytest.raises(
        ValueError, match="there are no prompts to measure on colours; name the model, to measure its templates, or"
    ):
        evaluate([colour_task(tmp_path)], output=tmp_path / "r.parquet")
    (tmp_path / "no folder").write_text("")
    with pytest.raises(ValueError, match=r"r\.parquet cannot lie in .*no folder, which is a file; name another place"):
        evaluate(
            [colour_task(tmp_path)], prompts=prompt_files(tmp_path), output=tmp_path / "no folder" / "r.parquet",
            encoder=ENCODER,
        )  # fmt: skip
    pq.write_table(pq.read_table(tmp_path / "colours.parquet").slice(0, 0), tmp_path / "empty.parquet")
    empty = replace(colour_task(tmp_path), paths=(tmp_path / "empty.parquet",))
    with pytest.raises(ValueError, match=r"empty\.parquet has no rows; give labelled images"):
        evaluate(
            [empty], prompts=prompt_files(tmp_path), output=tmp_path / "r.parquet", encoder=ENCODER, running=Running(0)
        )


def test_prompts_of_other_classes_than_every_task_are_known(tmp_path: Path) -> None:
    task, texts = colour_task(tmp_path), prompt_files(tmp_path)
    assert unused_prompts(texts, [task]) == []
    other = replace(task, labels=LabelSet(("cat", "dog")))
    assert [one.name for one in unused_prompts(texts, [other])] == ["good", "bad"]


def test_a_suite_is_all_of_its_tasks_and_check_says_what_is_missing(tmp_path: Path) -> None:
    opened = open_tasks(["elevater"], folder=tmp_path)
    assert len(opened) == 20
    assert {task.name for task, _folder in opened} >= {"EuroSAT", "MNIST"}
    problems = check_evaluation(opened)
    assert len(problems) >= 20
    assert all(str(tmp_path) in problem for problem in problems)


def test_without_prompts_a_task_is_measured_by_its_own_templates(tmp_path: Path) -> None:
    task = replace(colour_task(tmp_path), labels=replace(LABELS, templates=("a {} thing", "{}")))
    own = evaluate([task], output=tmp_path / "own.parquet", encoder=ENCODER, running=Running(0)).results
    write_prompts(template_prompts(task.labels), tmp_path / "prompts-same.parquet")
    texts = read_prompt_files([tmp_path / "prompts-same.parquet"])
    same = evaluate(
        [task], prompts=texts, output=tmp_path / "same.parquet", encoder=ENCODER, running=Running(0)
    ).results
    assert [(one.run, one.tier) for one in own] == [("templates", "T0")]
    assert own[0].measures == same[0].measures


def test_a_bundled_name_is_not_taken_for_the_folder_that_holds_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elevater" / "mnist").mkdir(parents=True)
    assert [task.name for task, _folder in open_tasks(["elevater/mnist"])] == ["MNIST"]
    assert [task.name for task, _folder in open_tasks(["./elevater/mnist"], labels=LABELS)] == ["mnist"]
    assert len(open_tasks(["elevater"])) == 20


def test_check_finds_prompts_and_support_that_do_not_fit(tmp_path: Path) -> None:
    texts = prompt_files(tmp_path)
    azure = ("red", "green", "azure")
    opened = open_tasks([colour_task(tmp_path).paths[0]], labels=replace(LABELS, names=azure, ids=azure))
    other = Fingerprint("other", "", "f" * 64, "")
    heads = choose_heads(["ridge"], support=tmp_path / "none.parquet")
    made = f"the prompts were made with {ENCODER.fingerprint}, but the encoder is {other}"
    made += "; enhance the labels again with this encoder (in Python, allow_other_encoder=True takes them as is)"
    assert check_evaluation(opened, texts=texts, heads=heads, encoder=other) == (
        f"colours: test: {tmp_path / 'colours.parquet'}: 1 label not among the 3 classes, such as 'blue'; "
        "add them to the label set, or leave those rows out",
        "colours: no prompts file has its 3 classes; enhance its label set",
        f"{tmp_path / 'prompts-good.parquet'}: {made}",
        f"{tmp_path / 'prompts-bad.parquet'}: {made}",
        f"there is no support file {tmp_path / 'none.parquet'}; write one with `rag-clip support`",
    )


def test_a_support_file_of_other_classes_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    task, texts = colour_task(tmp_path), prompt_files(tmp_path)
    path, labels = tmp_path / "support.parquet", LabelSet(("red", "green"))
    features = ENCODER.encode_text(["red", "green"])
    write_support(Support(labels, features, torch.eye(2), torch.ones(2), ("shot",) * 2, ("0", "1")), path)
    heads = choose_heads(["ridge"], support=path)
    said = f"{path} has other classes than the prompts ('blue' is in one of them only); make it for this label set"
    opened = open_tasks([task.paths[0]], labels=LABELS)
    assert check_evaluation(opened, texts=texts, heads=heads, encoder=ENCODER.fingerprint) == (said,)
    events: list[ProgressEvent] = []
    with pytest.raises(ValueError, match="has other classes than the prompts"):
        evaluate(
            [task],
            prompts=texts,
            output=tmp_path / "r.parquet",
            encoder=ENCODER,
            heads=Heads(choices=heads),
            running=Running(report=events.append),
        )
    assert events == []


def test_plain_images_need_a_label_set_and_unknown_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing says which classes .* is of; give its label set"):
        open_tasks([colour_task(tmp_path).paths[0]])
    with pytest.raises(FileNotFoundError, match="no task file elevator, and no bundled task of that name"):
        open_tasks(["elevator"])


def test_two_files_are_compared_run_by_run_on_the_same_images(tmp_path: Path) -> None:
    task, texts = colour_task(tmp_path), prompt_files(tmp_path)
    for name, chosen in (("a", texts), ("b", [replace(texts[0], prompts=texts[1].prompts)])):
        evaluate([task], prompts=chosen, output=tmp_path / f"{name}.parquet", encoder=ENCODER, running=Running(0))
    found = compare_results(*(read_results(tmp_path / f"{name}.parquet") for name in "ab"))
    assert [pair.name for pair in found.pairs] == ["colours | good [T0 → T1]"]
    change = found.pairs[0].difference
    assert change is not None
    assert (change.value, change.gained, change.lost, change.probability) == (pytest.approx(-1 / 3), 0, 2, 0.5)
    assert (found.only_before, found.only_after) == (("colours | bad",), ())
    write_comparison(tmp_path / "page.html", found)
    page = (tmp_path / "page.html").read_text()
    assert "<p>1 run, before and after · rag-clip" in page
    assert "good (after) is right on 0 images that good (before) got wrong" in page


def test_single_runs_are_compared_whatever_their_names_and_nothing_in_common_is_refused() -> None:
    def result(task: str, run: str) -> Result:
        return Result(task, run, "T0", run, SETTINGS, COUNTS, (Measure("accuracy", "", 0.5),))

    found = compare_results([result("t", "one")], [result("t", "two")])
    assert ([pair.name for pair in found.pairs], found.pairs[0].difference) == (["t | one → two [T0]"], None)
    with pytest.raises(ValueError, match=r"no run in common: t \| one; and u \| one"):
        compare_results([result("t", "one")], [result("u", "one")])


def test_results_of_another_format_are_refused(tmp_path: Path) -> None:
    task = image_task(*open_tasks([features_file(tmp_path / "pets.npz")])[0])
    evaluate([replace(task, scale=1)], output=tmp_path / "r.parquet")
    table = pq.read_table(tmp_path / "r.parquet")
    facts = json.dumps({"format": 99, "version": "9.0"})
    pq.write_table(table.replace_schema_metadata({"rag_clip.results": facts}), tmp_path / "new.parquet")
    with pytest.raises(ValueError, match=r"has format 99 of rag-clip 9\.0, and this version reads format 2"):
        read_results(tmp_path / "new.parquet")

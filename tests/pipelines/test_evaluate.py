"""The evaluate job: what is measured, what is kept, and what is not run again."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import polars as pl
import pytest
import torch

from inputs.pictures import COLOURS, picture, write_images
from inputs.tasks import CAPTION, ENCODER, LABELS, Counting, colour_task, prompt_files
from rag_clip.data import LabelSet, Prompts, PromptText, Support
from rag_clip.evaluation.head_choices import choose_heads
from rag_clip.evaluation.image_tasks import ImageTask, read_images
from rag_clip.evaluation.results import Result, read_results
from rag_clip.evaluation.rival_names import Candidates
from rag_clip.evaluation.runs import PromptFile, read_prompt_files
from rag_clip.evaluation.settings import CandidateFacts
from rag_clip.evaluation.shot_runs import Heads
from rag_clip.files.prompts import write_prompts
from rag_clip.files.support import write_support
from rag_clip.images.decoding import Decoding
from rag_clip.pipelines.evaluate import evaluate
from rag_clip.pipelines.running import Running
from rag_clip.progress import ProgressEvent
from rag_clip.prompts.templates import template_prompts


def shots(path: Path) -> Path:
    names = [*COLOURS]
    write_support(
        Support(
            LABELS,
            ENCODER.encode_images([picture(name) for name in names]).pooled,
            torch.eye(3),
            torch.ones(3),
            ("shot",) * 3,
            tuple(names),
            {"encoder": {}, "method": "shots"},
        ),
        path,
    )
    return path


def test_each_prompts_file_is_a_run_with_its_numbers_and_tier(tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    summary = evaluate(
        [colour_task(tmp_path)],
        prompts=prompt_files(tmp_path),
        output=tmp_path / "results.parquet",
        encoder=ENCODER,
        running=Running(0, report=events.append),
    )
    results = [event.item for event in events if isinstance(event.item, Result)]
    assert [f"{result.run} {result.tier}" for result in results] == ["good T0", "bad T1"]
    assert (summary.measured, summary.found, summary.failed) == (2, 0, 0)
    table = pl.read_parquet(tmp_path / "results.parquet")
    names = ["task", "run", "tier", "metric", "item", "value", "low", "high", "settings", "key"]
    assert table.columns == names
    bad = {(row["metric"], row["item"]): row["value"] for row in table.filter(run="bad").iter_rows(named=True)}
    recalls = {("recall", "red"): 0.0, ("recall", "green"): 1.0, ("recall", "blue"): 1.0}
    assert {key: bad[key] for key in recalls} == recalls
    # Red is taken by one class of the other of two groups: within its own group it is right.
    numbers = [bad[metric, ""] for metric in ("accuracy", "mean_per_class", "acc_c", "acc_e", "acc_s")]
    assert numbers == pytest.approx([2 / 3, 2 / 3, 1.0, 0.75, 0.5])


def test_heads_are_runs_of_their_own_marked_by_the_labels_they_used(tmp_path: Path) -> None:
    heads = choose_heads(
        ["tip_adapter"], support=shots(tmp_path / "s.parquet"), options={"tip_adapter": {"alpha": 1e4}}
    )
    output = tmp_path / "results.parquet"
    evaluate(
        [colour_task(tmp_path)],
        prompts=prompt_files(tmp_path)[1:],
        output=output,
        encoder=ENCODER,
        running=Running(0),
        heads=Heads(choices=heads),
    )
    alone, head = read_results(output)
    assert [(one.run, one.tier) for one in (alone, head)] == [("bad", "T1"), ("bad + tip_adapter", "T1+FS")]
    accuracies = [one.get("accuracy") for one in (alone, head)]
    assert [one.value for one in accuracies if one] == pytest.approx([2 / 3, 1.0])
    assert head.settings.head is not None
    assert head.settings.head.settings["alpha"] == 1e4
    assert head.settings.tuned == (
        "tip_adapter was built on 3 support images (3 shot); beta: as published, or by leave-one-out on these images. "
        "No label of the images measured here was used."
    )


def test_images_that_cannot_be_used_are_counted_and_the_rest_keep_their_rows(tmp_path: Path) -> None:
    task = colour_task(tmp_path, broken=True)
    images = read_images(task, encoder=ENCODER, decoding=Decoding(0))
    assert (images.rows.tolist(), images.failed) == ([0, 1, 2, 3, 4, 5], 1)
    output = tmp_path / "results.parquet"
    summaries = [
        evaluate([task], prompts=prompt_files(tmp_path), output=output, encoder=ENCODER, running=Running(0))
        for _ in range(2)
    ]
    assert [(one.measured, one.failed) for one in summaries] == [(2, 1), (0, 1)]
    counts = read_results(output)[1].counts
    assert (counts.failed, list(counts.reasons)) == (1, ["6"])
    assert counts.reasons["6"].startswith("not an image of a known format (begins with b'no image')")
    kept = read_results(output)[1].images
    assert kept is not None
    assert kept.select(["row", "target", "predicted", "right"]).to_pylist()[:2] == [
        {"row": 0, "target": 0, "predicted": 2, "right": False},
        {"row": 1, "target": 1, "predicted": 1, "right": True},
    ]


def test_logits_are_put_in_the_order_of_the_tasks_classes(tmp_path: Path) -> None:
    task = colour_task(tmp_path)
    turned = LabelSet(LABELS.names[::-1], groups=LABELS.groups[::-1])
    summary = evaluate(
        [replace(task, labels=turned)],
        prompts=prompt_files(tmp_path),
        output=tmp_path / "results.parquet",
        encoder=ENCODER,
        running=Running(0),
    )
    assert summary.results[1].series("recall") == {"blue": 1.0, "green": 1.0, "red": 0.0}


def test_bad_input_is_refused_with_what_to_do(tmp_path: Path) -> None:
    task, texts = colour_task(tmp_path), prompt_files(tmp_path)
    others = ImageTask("other", task.paths, LabelSet(("cat", "dog")))
    with pytest.raises(ValueError, match="no prompts file has the 2 classes of other; enhance its label set"):
        evaluate([others], prompts=texts, output=tmp_path / "r.parquet", encoder=ENCODER)
    with pytest.raises(ValueError, match=r"r\.csv would be Parquet"):
        evaluate([task], prompts=texts, output=tmp_path / "r.csv", encoder=ENCODER)
    with pytest.raises(ValueError, match="two tasks have the name 'colours'"):
        evaluate([task, task], prompts=texts, output=tmp_path / "r.parquet", encoder=ENCODER)
    with pytest.raises(ValueError, match="unknown head 'tip'; known are tip_adapter"):
        choose_heads(["tip"], support=None)
    with pytest.raises(ValueError, match="'ridge' needs a support file"):
        choose_heads(["ridge"], support=None)
    with pytest.raises(ValueError, match="settings for 'tip_x', which is none of the heads"):
        choose_heads(["ridge"], support=tmp_path, options={"tip_x": {}})
    with pytest.raises(ValueError, match="the head 'ridge' is named twice; name it once"):
        choose_heads(["ridge", "ridge"], support=tmp_path)
    with pytest.raises(ValueError, match="ridge: unknown key 'beta'; "):
        choose_heads(["ridge"], support=tmp_path, options={"ridge": {"beta": 1}})
    lone = choose_heads(["como"], support=tmp_path / "s.parquet")
    with pytest.raises(ValueError, match="como needs the images' features by a second encoder too; name one"):
        evaluate([task], prompts=texts, output=tmp_path / "r.parquet", encoder=ENCODER, heads=Heads(choices=lone))
    with pytest.raises(ValueError, match="would both be called"):
        read_prompt_files([tmp_path / "prompts-good.parquet", tmp_path / "prompts-good.parquet"])
    (tmp_path / "old.parquet").write_bytes((tmp_path / "colours.parquet").read_bytes())
    with pytest.raises(ValueError, match=r"old\.parquet is not a results file of format 2"):
        read_results(tmp_path / "old.parquet")


def test_candidate_names_are_measured_beside_texts_alone_and_change_no_other_run(tmp_path: Path) -> None:
    task, texts, output = colour_task(tmp_path), prompt_files(tmp_path)[:1], tmp_path / "results.parquet"
    heads = choose_heads(["tip_adapter"], support=shots(tmp_path / "s.parquet"))
    job = partial(
        evaluate, [task], prompts=texts, output=output, encoder=ENCODER, running=Running(0), heads=Heads(choices=heads)
    )
    plain = job()
    named = job(candidates=Candidates("words.txt", ("reds", "red sea", "sky")))
    other = job(candidates=Candidates("words.txt", ("sea",)))
    assert [(one.measured, one.found) for one in (plain, named, other, job())] == [(2, 0), (1, 1), (1, 1), (0, 2)]
    alone, head = named.results
    assert set(alone.series("adversarial_name")) == {"red sea", "sky"}
    assert head.series("adversarial_name") == plain.results[0].series("adversarial_name") == {}
    assert alone.settings.candidates == CandidateFacts("words.txt", names=3, left_out=1)
    assert head.settings.candidates is None
    with pytest.raises(ValueError, match=r"words\.txt has no names except those of the classes; give others"):
        job(candidates=Candidates("words.txt", ("Blue",)))
    with pytest.raises(
        ValueError, match="candidate names are added to the classes of prompts; give prompts, and the model"
    ):
        job(prompts=[], candidates=Candidates("words.txt", ("sea",)))


def test_a_text_is_encoded_once_for_prompts_and_swaps(tmp_path: Path) -> None:
    labels = replace(LABELS, synonyms=(("scarlet",), (), ()))
    groups = ((PromptText("red", 0.5), CAPTION), (PromptText("green", 1.0),), (PromptText("blue", 1.0),))
    mixed = Prompts(labels, tuple(tuple(replace(text, weight=1 / len(each)) for text in each) for each in groups))
    encoder = Counting()
    evaluate(
        [colour_task(tmp_path)],
        prompts=[PromptFile("mixed", tmp_path / "mixed.parquet", mixed)],
        output=tmp_path / "results.parquet",
        encoder=encoder,
        running=Running(0),
    )
    assert encoder.encoded == ["red", "sea", "green", "blue", "scarlet"]


def test_prompts_of_other_classes_may_share_a_name_and_those_of_the_same_may_not(tmp_path: Path) -> None:
    colours, animals = LabelSet(("red", "blue")), LabelSet(("fox", "owl"))
    places = []
    for folder, labels in (("a", colours), ("b", animals), ("c", animals)):
        places.append(tmp_path / folder / "prompts-templates.parquet")
        write_prompts(template_prompts(labels), places[-1])
    assert [one.name for one in read_prompt_files(places[:2])] == ["templates", "templates"]
    assert [one.name for one in read_prompt_files(places)] == ["templates", "b/templates", "c/templates"]


def test_a_run_has_one_name_on_every_task_of_a_suite(tmp_path: Path) -> None:
    tasks, places = [], []
    for name, names in (("one", ["red", "green"]), ("two", ["green", "blue"])):
        images = write_images(tmp_path / f"{name}.parquet", [picture(colour) for colour in names], label=names)
        tasks.append(ImageTask(name, (images,), LabelSet(tuple(names))))
        places.append(tmp_path / name / "prompts-names.parquet")
        write_prompts(template_prompts(LabelSet(tuple(names)), templates=("{}",)), places[-1])
    summary = evaluate(
        tasks,
        prompts=read_prompt_files(places),
        output=tmp_path / "results.parquet",
        encoder=ENCODER,
        running=Running(0),
    )
    assert [(one.task, one.run, one.main.value) for one in summary.results] == [
        ("one", "names", 1.0),
        ("two", "names", 1.0),
    ]

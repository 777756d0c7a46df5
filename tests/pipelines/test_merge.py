"""`merge`: weights bit for bit, alpha chosen on both validations, folders that do not fit, and the verb."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from inputs.command_line import run
from inputs.objectives import encoder, pairs
from inputs.photographs import photographs
from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import LabelSet, Prompts
from rag_clip.demo.concepts import concepts
from rag_clip.files.prompts import write_prompts
from rag_clip.models.decode import decode_image
from rag_clip.models.folder import write_model
from rag_clip.models.open_clip import load_encoder
from rag_clip.models.towers import TwoTowers
from rag_clip.pipelines.merge import ALPHAS, AlphaSearch, MergeSummary, merge_models
from rag_clip.pipelines.running import Running
from rag_clip.progress import silent
from rag_clip.prompts.templates import template_prompts
from rag_clip.training.adapt import FINE_TUNING, Manner, adapt
from rag_clip.training.batches import Examples, Head
from rag_clip.training.loop import Schedule
from rag_clip.training.objective import Objective
from rag_clip.training.objectives.clip import Clip
from rag_clip.training.objectives.labels import Labels
from rag_clip.training.objectives.siglip import SigLip
from rag_clip.training.towers import Lock
from rag_clip.training.weights import add_differences, interpolate

SCHEDULE = replace(FINE_TUNING, steps=2, batch_size=6, rate=1e-3)
QUIET = Running(0, report=silent)
State = dict[str, torch.Tensor]


def adapted(
    folder: Path,
    objective: Objective | None = None,
    *,
    examples: Examples | None = None,
    lock: Lock = Lock(text=True),  # noqa: B008
    schedule: Schedule = SCHEDULE,
    start: TwoTowers | None = None,
) -> Path:
    """Write a model that was adapted from the bundled CLIP, or from `start`."""
    parent = start or encoder()
    made = adapt(parent, examples or pairs(), objective or Labels(), manner=Manner(lock), schedule=schedule)
    write_model(made.encoder, folder, {"objective": "labels", "parent": asdict(parent.fingerprint)})
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapted models: `first` and `second` by the image tower, `both` by both, `text` by the text tower.

    `learned` was fine-tuned on the photographs of the task `patch`.
    """
    root = tmp_path_factory.mktemp("adapted")
    adapted(root / "first")
    adapted(root / "second", schedule=replace(SCHEDULE, seed=1))
    adapted(root / "both", Clip(), lock=Lock())
    adapted(root / "text", Clip(), lock=Lock(image=True))
    shown = [encoder().preprocess(decode_image(image)) for image in photographs(24)[:6]]
    pixels = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)
    head = Head(prompts_of(range(6)).labels, zero_shot(prompts_of(range(6)), encoder()).weights)
    examples = Examples(lambda rows: pixels[rows], targets=torch.arange(6), head=head)
    adapted(root / "learned", examples=examples, schedule=replace(SCHEDULE, steps=15))
    return root


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled photographs of two tasks of six names each, with their prompts."""
    root = tmp_path_factory.mktemp("tasks")
    names = [concept.name for concept in concepts()]
    images = photographs(24)
    for task, rows in {"patch": range(6), "supported": range(12, 24)}.items():
        table = pa.table({"image": [images[row] for row in rows], "label": [names[row] for row in rows]})
        pq.write_table(table, root / f"{task}.parquet")
        write_prompts(prompts_of(rows), root / f"{task}-prompts.json")
    return root


def prompts_of(rows: range) -> Prompts:
    return template_prompts(LabelSet(tuple(concepts()[row].name for row in rows)))


def merge(*given: Path, output: Path, **asked: object) -> MergeSummary:
    return merge_models(given, output=output, running=QUIET, **asked)  # type: ignore[arg-type]


def state(folder: Path) -> State:
    return load_file(folder / "open_clip_model.safetensors")


def demo() -> State:
    return dict(encoder().model.state_dict())


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_ends_are_bit_for_bit_those_of_both_models(folders: Path, tmp_path: Path) -> None:
    nothing = merge(folders / "first", output=tmp_path / "0", alpha=0)
    assert same(state(tmp_path / "0"), demo())
    assert not nothing.image_tower_moved
    merge(folders / "first", output=tmp_path / "1", alpha=1)
    assert same(state(tmp_path / "1"), state(folders / "first"))


def test_a_merge_is_loaded_with_the_weights_between_and_the_text_vectors_of_the_model(
    folders: Path, tmp_path: Path
) -> None:
    summary = merge(folders / "first", output=tmp_path / "out", alpha=0.3)
    assert (summary.how, summary.alphas, summary.sweep, summary.notes) == ("single", (0.3,), (), ())
    assert (summary.image_tower_moved, summary.text_tower_moved) == (True, False)
    assert same(state(tmp_path / "out"), interpolate(demo(), state(folders / "first"), 0.3))
    loaded = load_encoder(f"local-dir:{tmp_path / 'out'}", device="cpu")
    texts = ["a photo of a kite", "two boats"]
    assert torch.equal(loaded.encode_text(texts), encoder().encode_text(texts))
    facts = json.loads((tmp_path / "out" / "adapt.json").read_text())
    assert facts["parent"] == asdict(encoder().fingerprint)
    assert [(each["folder"], each["alpha"]) for each in facts["merged"]] == [("first", 0.3)]
    assert facts["merged"][0]["weights"] == json.loads((folders / "first" / "adapt.json").read_text())["weights"]
    assert str(summary) == f"{tmp_path / 'out'}: 1 adapted model merged, single, alpha 0.3"


def test_what_two_models_changed_is_added(folders: Path, tmp_path: Path) -> None:
    both = [folders / "first", folders / "second"]
    summary = merge(*both, output=tmp_path / "out", alpha=[0.3, 0.2])
    assert (summary.how, summary.alphas, summary.notes) == ("parallel", (0.3, 0.2), ())
    assert same(state(tmp_path / "out"), add_differences(demo(), [state(each) for each in both], [0.3, 0.2]))
    far = merge(*both, output=tmp_path / "far", alpha=0.6)
    assert far.notes == ("the alphas sum to 1.2; above 1 the changes may go too far, so measure the result",)


def test_a_sequence_is_merged_as_it_was_adapted(folders: Path, tmp_path: Path) -> None:
    merge(folders / "first", output=tmp_path / "one", alpha=0.5)
    start = load_encoder(f"local-dir:{tmp_path / 'one'}", device="cpu")
    assert isinstance(start, TwoTowers)
    then = adapted(tmp_path / "then", start=start)
    merge(then, output=tmp_path / "two", alpha=0.25)
    at_once = merge(
        folders / "first", then, output=tmp_path / "both", encoder="demo", alpha=[0.5, 0.25], how="sequential"
    )
    assert at_once.how == "sequential"
    assert same(state(tmp_path / "both"), state(tmp_path / "two"))
    with pytest.raises(
        ValueError, match=r"then was adapted from other weights \(.{12}\) than those of .*; merge it into"
    ):
        merge(folders / "first", then, output=tmp_path / "no", encoder="demo", alpha=[0.4, 0.25], how="sequential")


def test_whole_merges_both_towers_and_the_others_say_that_the_text_tower_stays(folders: Path, tmp_path: Path) -> None:
    whole = merge(folders / "both", output=tmp_path / "whole", alpha=0.5, how="whole")
    assert (whole.image_tower_moved, whole.text_tower_moved, whole.notes) == (True, True, ())
    assert same(state(tmp_path / "whole"), interpolate(demo(), state(folders / "both"), 0.5, parts=("",)))
    image = merge(folders / "both", output=tmp_path / "image", alpha=0.5)
    said = f"the text tower of {folders / 'both'} moved too; it stays that of the model (`whole` merges it)"
    assert image.notes == (said,)
    assert torch.equal(state(tmp_path / "image")["text_projection"], demo()["text_projection"])


def test_image_vectors_stay_valid_if_only_the_text_tower_is_merged(folders: Path, tmp_path: Path) -> None:
    summary = merge(folders / "text", output=tmp_path / "out", alpha=0.5, how="whole")
    assert (summary.image_tower_moved, summary.text_tower_moved) == (False, True)
    loaded = load_encoder(f"local-dir:{tmp_path / 'out'}", device="cpu")
    assert loaded.fingerprint.image_part.agrees_with(encoder().fingerprint)
    with pytest.raises(
        ValueError, match=r"the image tower of .*text is that of the model, so there is nothing to merge"
    ):
        merge(folders / "text", output=tmp_path / "no", alpha=0.5)


def test_alpha_is_chosen_by_both_validations(folders: Path, tasks: Path, tmp_path: Path) -> None:
    def task(name: str) -> tuple[Path, Path]:
        return tasks / f"{name}.parquet", tasks / f"{name}-prompts.json"

    search = AlphaSearch([task("patch")], [task("supported"), task("patch")])
    summary = merge(folders / "learned", output=tmp_path / "out", search=search)
    assert tuple(each.alpha for each in summary.sweep) == ALPHAS == tuple(round(k / 20, 2) for k in range(21))
    for each in summary.sweep:
        assert each.score == pytest.approx((each.patch[0] + (each.supported[0] + each.supported[1]) / 2) / 2)
        assert each.supported[1] == each.patch[0]
    (chosen,) = summary.alphas
    top = max(each.score for each in summary.sweep)
    assert chosen == min(each.alpha for each in summary.sweep if each.score == top)
    assert chosen > 0
    facts = json.loads((tmp_path / "out" / "adapt.json").read_text())
    assert [each["score"] for each in facts["sweep"]] == [each.score for each in summary.sweep]
    assert same(state(tmp_path / "out"), interpolate(demo(), state(folders / "learned"), chosen))
    tuned = load_encoder(f"local-dir:{folders / 'learned'}", device="cpu")
    for model, measured in ((encoder(), summary.sweep[0]), (tuned, summary.sweep[-1])):
        features = model.encode_images(photographs(24)[12:])
        right = zero_shot(prompts_of(range(12, 24)), model)(features).argmax(1) == torch.arange(12)
        assert measured.supported[0] == pytest.approx(float(right.float().mean()))


def test_alpha_is_never_chosen_by_the_patching_task_alone(folders: Path, tasks: Path, tmp_path: Path) -> None:
    task = (tasks / "patch.parquet", tasks / "patch-prompts.json")
    with pytest.raises(ValueError, match="there are no supported tasks, which must keep working; give images and"):
        AlphaSearch([task], [])
    with pytest.raises(ValueError, match="there are no patching tasks, which were learned; give images and prompts"):
        AlphaSearch([], [task])
    both = AlphaSearch([task], [task])
    with pytest.raises(ValueError, match="give either alpha, or validation images"):
        merge(folders / "first", output=tmp_path / "out", alpha=0.5, search=both)
    with pytest.raises(ValueError, match="was adapted from a merge whose alpha is settled"):
        merge(folders / "first", folders / "second", output=tmp_path / "out", search=both, how="sequential")


def test_bad_alphas_and_ways_are_refused(folders: Path, tmp_path: Path) -> None:
    first, second, out = folders / "first", folders / "second", tmp_path / "out"
    for alpha in (-0.1, 1.5):
        with pytest.raises(ValueError, match=re.escape(f"alpha is {alpha}; give 0, the start, to 1")):
            merge(first, output=out, alpha=alpha)
    with pytest.raises(ValueError, match="give either alpha, or validation images of patching and supported tasks"):
        merge(first, output=out)
    with pytest.raises(ValueError, match="there are 3 alphas for 2 folders; give one, or one each"):
        merge(first, second, output=out, alpha=[0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="`whole` merges one folder, and there are 2; merge them parallel or"):
        merge(first, second, output=out, alpha=0.3, how="whole")
    with pytest.raises(ValueError, match="there is nothing to merge; give a folder of `rag-clip adapt`"):
        merge(output=out, alpha=0.3)
    assert not out.exists()


def test_folders_that_do_not_fit_are_refused(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    plain = tmp_path / "plain"
    write_model(encoder(), plain, {})
    with pytest.raises(ValueError, match=r"plain has no adapted model \(weights and adapt.json\); name a folder of"):
        merge(plain, output=out, alpha=0.5)
    start = load_encoder(f"local-dir:{folders / 'second'}", device="cpu")
    with pytest.raises(ValueError, match=r"first was adapted from other weights \(.{12}\) than those of .*second"):
        merge(folders / "first", output=out, alpha=0.5, encoder=start)
    other = adapted(tmp_path / "other", SigLip())
    with pytest.raises(
        ValueError, match="other does not fit the model demo: only the weights to merge have 'logit_bias'"
    ):
        merge(other, output=out, alpha=0.5)
    half = load_encoder("demo", device="cpu", precision="bf16")
    with pytest.raises(
        ValueError, match="weights are merged in float32, and 'demo' is in bf16; load it with precision"
    ):
        merge(folders / "first", output=out, alpha=0.5, encoder=half)
    assert not out.exists()


def test_weights_that_are_not_those_recorded_are_refused(tmp_path: Path) -> None:
    folder = adapted(tmp_path / "changed")
    path = folder / "open_clip_model.safetensors"
    weights = load_file(path)
    weights["visual.proj"][0, 0] = torch.nan
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"the weights in .*changed are not those that its adapt.json records"):
        merge(folder, output=tmp_path / "out", alpha=0.5)
    model = load_encoder(f"local-dir:{folder}", device="cpu")
    assert isinstance(model, TwoTowers)
    write_model(model, folder, json.loads((folder / "adapt.json").read_text()))
    with pytest.raises(ValueError, match=r"has values that are not finite in 'visual.proj'; adapt the model again"):
        merge(folder, output=tmp_path / "out", alpha=0.5)


def test_an_input_is_never_replaced(folders: Path, tmp_path: Path) -> None:
    for place in (folders / "first", folders / "first" / "inside"):
        with pytest.raises(ValueError, match=r"the output .* (is one of the inputs|lies in the input folder)"):
            merge(folders / "first", output=place, alpha=0.5)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty \(notes.txt\)"):
        merge(folders / "first", output=tmp_path, alpha=0.5)


def test_the_verb_shows_the_sweep_and_needs_no_model(folders: Path, tasks: Path, tmp_path: Path) -> None:
    patch, supported = (
        [f"--{name}", tasks / f"{name}.parquet", tasks / f"{name}-prompts.json"] for name in ("patch", "supported")
    )
    asked = ["merge", folders / "learned", "-o", "out", *patch, *supported, "--workers", 0]
    code, out, errors = run(*asked, folder=tmp_path)
    assert code == 0, errors
    lines = out.splitlines()
    assert re.fullmatch(r"out: 1 adapted model merged, single, alpha 0?\.?\d+", lines[0])
    swept = [line for line in lines if re.fullmatch(r"  alpha \d\.\d\d  patch .*  supported .*  mean \d+\.\d.*", line)]
    assert len(swept) == 21
    assert [line for line in swept if line.endswith("<- chosen")]
    assert "  the image tower moved: build image indexes and support sets again, features are made anew" in lines
    assert lines[-1] == "next: --model local-dir:out, for example in rag-clip enhance"
    code, _, errors = run(*asked[:4], *patch, folder=tmp_path)
    assert code == 1
    assert "there are no supported tasks, which must keep working; give images and prompts" in errors


def test_the_verb_takes_an_alpha_for_each_folder(folders: Path, tmp_path: Path) -> None:
    asked = ["merge", folders / "first", folders / "second", "--alpha", 0.3, 0.2, "-o", "out", "--model", "demo"]
    code, _, errors = run(*asked, folder=tmp_path)
    assert code == 0, errors
    both = [state(folders / "first"), state(folders / "second")]
    assert same(state(tmp_path / "out"), add_differences(demo(), both, [0.3, 0.2]))
    code, _, errors = run("merge", folders / "first", "--alpha", 2, "-o", "other", folder=tmp_path)
    assert (code, "alpha is 2.0; give 0, the start, to 1, the fine-tuned weights" in errors) == (1, True)

"""Heads on few shots in evaluate: drawn from a train split or from the file itself, reported over the draws."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

import pytest

from inputs.pictures import COLOURS
from inputs.shots import NAMES, features_file, pets
from inputs.tasks import ENCODER, LABELS, colour_task, prompt_files
from rag_clip.classifiers.evidence import one_label
from rag_clip.classifiers.heads import HEADS, build_head
from rag_clip.cli import app
from rag_clip.data import LabelSet
from rag_clip.evaluation.compare import difference
from rag_clip.evaluation.feature_file import read_features
from rag_clip.evaluation.few_shot import over_draws
from rag_clip.evaluation.image_tasks import ImageTask, image_task, open_tasks
from rag_clip.evaluation.protocol import draw_shots
from rag_clip.evaluation.results import Measure, Result, read_results
from rag_clip.evaluation.shot_runs import FewShot, Heads
from rag_clip.evaluation.splits import Train
from rag_clip.metrics.accuracy import is_right
from rag_clip.metrics.uncertainty import mean_interval
from rag_clip.pipelines.evaluate import evaluate
from rag_clip.pipelines.running import Running
from rag_clip.report.evaluation import write_evaluation
from rag_clip.testing import ToyEncoder


def by_hand(folder: Path, head: str, *, shots: int, seed: int) -> float:
    """Return the accuracy of a head on one draw, put together from the parts."""
    train, test = (read_features(folder / f"{name}.npz") for name in ("train", "test"))
    drawn = draw_shots(Train(train.features, train.labels, train.truth), shots=shots, seed=seed)
    classifier = build_head(head, drawn.support(), encoder=None)(test.zero_shot())
    return float(is_right(classifier(test.features), one_label("test set", test.truth)).double().mean())


def answers_by_draw(result: Result) -> dict[int, dict[int, bool]]:
    """Return which images a run got right, by draw and row."""
    assert result.images is not None
    found: dict[int, dict[int, bool]] = {}
    for row in result.images.to_pylist():
        found.setdefault(row["draw"], {})[row["row"]] = row["right"]
    return found


def test_a_head_is_measured_on_each_number_of_shots_as_the_mean_over_its_draws(tmp_path: Path) -> None:
    task, few = pets(tmp_path), FewShot(("ridge", "linear_probe"), (1, 4), floor=False)
    found = evaluate([task], output=tmp_path / "r.parquet", heads=Heads(few_shot=few)).results
    assert [(one.run, one.tier) for one in found] == [
        ("a {}", "T0"),
        ("a {} + ridge, 1 shots", "T0+FS"),
        ("a {} + ridge, 4 shots", "T0+FS"),
        ("a {} + linear_probe, 1 shots", "T0+FS"),
        ("a {} + linear_probe, 4 shots", "T0+FS"),
    ]
    for place, head, shots in ((1, "ridge", 1), (2, "ridge", 4), (4, "linear_probe", 4)):
        values = [by_hand(tmp_path, head, shots=shots, seed=seed) for seed in range(3)]
        mean, spread = fmean(values), stdev(values)
        main = found[place].main
        assert (main.value, main.low, main.high) == pytest.approx((mean, mean - spread, mean + spread))
    assert found[0].main.value < 0.5 < found[4].main.value
    assert (
        found[4].settings.low_high
        == "the mean over the draws -/+ their sample standard deviation, within the range of the metric"
    )
    facts = found[4].settings.head
    assert facts is not None
    assert (facts.shots, facts.seeds, facts.shots_from) == (4, 3, str(tmp_path / "train.npz"))
    assert f"drawn 3 times from {tmp_path / 'train.npz'}; its open settings are as published" in found[4].settings.tuned


def test_what_was_drawn_and_measured_is_not_run_again_until_the_protocol_changes(tmp_path: Path) -> None:
    task, output = pets(tmp_path), tmp_path / "r.parquet"

    def measured(few: FewShot) -> int:
        return evaluate([task], output=output, heads=Heads(few_shot=few)).measured

    assert measured(FewShot(("ridge",), (2,))) == 2
    assert measured(FewShot(("ridge",), (2,))) == 0
    assert measured(FewShot(("ridge",), (2, 4))) == 1
    assert measured(FewShot(("ridge",), (2,), seeds=2)) == 1
    assert measured(FewShot(("ridge",), (2,), validate=True)) == 1
    assert measured(FewShot(("ridge",), (2,), floor=False)) == 1
    assert measured(FewShot(("ridge",), (2,), options={"ridge": {"penalty": 0.5}})) == 1
    features_file(tmp_path / "train.npz", images=13, seed=5)
    assert measured(FewShot(("ridge",), (2,))) == 1
    write_evaluation(tmp_path / "r.html", read_results(output))
    assert "ridge was built on 2 images of each class, drawn 3 times" in (tmp_path / "r.html").read_text()


def test_a_file_without_splits_gives_its_shots_and_its_other_images_are_measured(tmp_path: Path) -> None:
    place = features_file(tmp_path / "pets.npz", images=10, seed=0)
    task = image_task(*open_tasks([place])[0])
    found = evaluate(
        [task], output=tmp_path / "r.parquet", heads=Heads(few_shot=FewShot(("tip_adapter",), (4,)))
    ).results[1]
    assert found.counts.images == 3 * (10 - 4)
    assert f"from {place} itself, whose other images were measured" in found.settings.tuned
    with pytest.raises(ValueError, match="10 shots per class would use all 30 images; draw fewer"):
        evaluate([task], output=tmp_path / "r.parquet", heads=Heads(few_shot=FewShot(("tip_adapter",), (10,))))


@pytest.mark.parametrize("head", [name for name in HEADS if name not in ("coop", "dpt", "como", "como_f")])
def test_every_head_of_features_chooses_by_the_inner_split(tmp_path: Path, head: str) -> None:
    output, few = tmp_path / "r.parquet", FewShot((head,), (5,), seeds=1, validate=True, floor=False)
    found = evaluate([pets(tmp_path)], output=output, heads=Heads(few_shot=few)).results[1]
    assert (found.run, found.tier, found.main.low, found.main.high) == (
        f"a {{}} + {head}, 5 shots",
        "T0+FS",
        None,
        None,
    )
    assert found.main.value >= 1 / 3
    assert "chosen on the first fifth of each class, held out of training" in found.settings.tuned


def test_images_and_prompts_in_another_order_of_classes_are_drawn_from_too(tmp_path: Path) -> None:
    task, few = colour_task(tmp_path), FewShot(("ridge",), (1,), seeds=2)
    texts = prompt_files(tmp_path)[:1]
    more = colour_task(tmp_path, name="more").paths
    turned = ImageTask("turned", task.paths, LabelSet(tuple(reversed(LABELS.names))), train=more[0])
    found: tuple[Result, ...] = evaluate(
        [task, turned],
        prompts=texts,
        output=tmp_path / "r.parquet",
        encoder=ENCODER,
        running=Running(0),
        heads=Heads(few_shot=few),
    ).results
    assert [(one.task, one.run, one.main.value, one.counts.images) for one in found] == [
        ("colours", "good", 1.0, 6),
        ("colours", "good + ridge, 1 shots", 1.0, 6 - len(COLOURS)),
        ("turned", "good", 1.0, 6),
        ("turned", "good + ridge, 1 shots", 1.0, 6),
    ]


def test_numbers_over_draws_are_the_mean_and_the_sample_standard_deviation() -> None:
    draws = [(Measure("accuracy", "", 0.4, 0.1, 0.9), Measure("recall", "cat", 1.0)), (Measure("accuracy", "", 0.6),)]
    accuracy, recall = over_draws(draws)
    assert (accuracy.value, accuracy.low, accuracy.high) == pytest.approx((0.5, 0.5 - 0.02**0.5, 0.5 + 0.02**0.5))
    assert recall == Measure("recall", "cat", 1.0)


def test_bounds_over_draws_end_where_the_number_does() -> None:
    ends = {"accuracy": (0.0, 1.0, 0.0, 1.0), "brier": (0.0, 2.0, 0.0, 2.0), "parameters": (9.0, 9.0, 9.0, 9.0)}
    for metric, (first, second, low, high) in ends.items():
        (found,) = over_draws([(Measure(metric, "", first),), (Measure(metric, "", second),)])
        assert (found.low, found.value, found.high) == (low, (first + second) / 2, high)


def test_what_the_vocabulary_does_is_counted_over_the_answers_of_all_draws(tmp_path: Path) -> None:
    task, few = pets(tmp_path), FewShot(("ridge",), (2, "all"))
    _, ridge, whole = evaluate([task], output=tmp_path / "r.parquet", heads=Heads(few_shot=few)).results
    assert ridge.images is not None
    wrong = [row for row in ridge.images.to_pylist() if not row["right"]]
    pairs = Counter(f"{NAMES[row['target']]} ← {NAMES[row['predicted']]}" for row in wrong)
    taken, ends = ridge.series("taken"), ridge.series("accuracy_by_classes")
    assert all(taken[pair] * 60 >= count - 1e-9 for pair, count in pairs.items())
    per_class = ridge.get("mean_per_class")
    assert per_class is not None
    assert list(ends) == ["1", "2", "3"]
    assert (ends["1"], ends["3"]) == pytest.approx((1.0, per_class.value))
    margins = [one.get("margin_last") for one in (ridge, whole)]
    assert [one is not None and one.low is not None for one in margins] == [False, True]


def test_encoders_that_a_head_does_not_need_do_not_decide_its_numbers(tmp_path: Path) -> None:
    task, texts, few = colour_task(tmp_path), prompt_files(tmp_path)[:1], FewShot(("ridge",), (1,), seeds=1)
    job = partial(evaluate, [task], prompts=texts, output=tmp_path / "r.parquet", encoder=ENCODER, running=Running(0))
    assert job(heads=Heads(few_shot=few)).measured == 2
    others = {"second": ToyEncoder(dim=8, name="second")}
    assert job(heads=Heads(few_shot=few, others=others)).measured == 0


def test_what_keeps_train_images_from_use_is_kept(tmp_path: Path) -> None:
    task = replace(colour_task(tmp_path), train=colour_task(tmp_path, name="more", broken=True).paths[0])
    _, ridge = evaluate(
        task,
        prompts=prompt_files(tmp_path)[:1],
        output=tmp_path / "r.parquet",
        encoder=ENCODER,
        running=Running(0),
        heads=Heads(few_shot=FewShot(("ridge",), (1,), seeds=1)),
    ).results
    assert ridge.counts.train is not None
    assert ridge.counts.train.failed == 1
    assert ridge.counts.train.reasons["6"].startswith("not an image of a known format")
    assert (ridge.counts.failed, ridge.counts.reasons) == (0, {})


def test_shots_that_repeat_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shots are \(4, 4\), one of them twice; give each number once"):
        FewShot(("ridge",), (4, 4))


def test_the_answers_of_every_draw_are_kept_and_pair_with_the_texts_alone(tmp_path: Path) -> None:
    task, few = pets(tmp_path), FewShot(("ridge", "gaussian"), (4,))
    evaluate([task], output=tmp_path / "r.parquet", heads=Heads(few_shot=few))
    alone, ridge, gaussian = read_results(tmp_path / "r.parquet")
    answers = [answers_by_draw(one) for one in (alone, ridge, gaussian)]
    assert [list(one) for one in answers] == [[0], [0, 1, 2], [0, 1, 2]]
    assert all(list(draw) == list(range(60)) for one in answers for draw in one.values())
    for one, held in zip((alone, ridge), answers, strict=False):
        assert fmean(fmean(draw.values()) for draw in held.values()) == pytest.approx(one.main.value)
    gain = difference(alone, ridge)
    assert gain is not None
    shares = [fmean(draw[row] for draw in answers[1].values()) - answers[0][0][row] for row in range(60)]
    assert gain.value == pytest.approx(ridge.main.value - alone.main.value)
    assert (gain.gained, gain.lost) == (sum(one > 0 for one in shares), sum(one < 0 for one in shares))
    between = difference(ridge, gaussian)
    assert between is not None
    assert between.value == pytest.approx(gaussian.main.value - ridge.main.value)


def test_shots_from_the_file_itself_pair_image_by_image_and_draw_by_draw(tmp_path: Path) -> None:
    place = features_file(tmp_path / "pets.npz", images=10, seed=0)
    task, few = image_task(*open_tasks([place])[0]), FewShot(("ridge",), (2, 4))
    alone, two, four = evaluate([task], output=tmp_path / "r.parquet", heads=Heads(few_shot=few)).results
    zero, less, more = map(answers_by_draw, (alone, two, four))
    shared = {row: [(less[draw][row], more[draw][row]) for draw in less if row in more[draw]] for row in zero[0]}
    assert all(set(more[draw]) < set(less[draw]) for draw in range(3))
    expected = fmean(fmean(after - before for before, after in held) for held in shared.values() if held)
    found = difference(two, four)
    assert found is not None
    assert found.value == pytest.approx(expected)
    measured = {row: [draw[row] for draw in more.values() if row in draw] for row in zero[0]}
    gain = difference(alone, four)
    assert gain is not None
    assert gain.value == pytest.approx(fmean(fmean(held) - zero[0][row] for row, held in measured.items() if held))


def test_runs_of_other_images_do_not_pair(tmp_path: Path) -> None:
    (one,) = evaluate(
        [image_task(*open_tasks([features_file(tmp_path / "a.npz", images=2, seed=0)])[0])],
        output=tmp_path / "a.parquet",
    ).results
    assert one.images is not None
    turned = replace(one, images=one.images.set_column(1, "target", one.images["target"].take(list(range(5, -1, -1)))))
    assert difference(one, turned) is None
    assert difference(one, replace(one, images=one.images.slice(0, 0))) is None
    assert difference(one, replace(one, images=None)) is None


def test_all_images_of_the_train_split_are_drawn_once_with_intervals_over_images(tmp_path: Path) -> None:
    task, output = pets(tmp_path), tmp_path / "r.parquet"
    found = evaluate([task], output=output, heads=Heads(few_shot=FewShot(("ridge",), (4, "all")))).results[2]
    train, test = (read_features(tmp_path / f"{name}.npz") for name in ("train", "test"))
    head = build_head("ridge", Train(train.features, train.labels, train.truth).support(), encoder=None)
    right = is_right(head(test.zero_shot())(test.features), one_label("test set", test.truth))
    assert (found.run, found.tier, found.counts.drawn) == ("a {} + ridge, all shots", "T0+FS", (36,))
    interval = mean_interval(right)
    assert (found.main.value, found.main.low, found.main.high) == (interval.value, interval.low, interval.high)
    assert found.settings.head is not None
    assert (found.settings.head.shots, found.settings.head.seeds) == ("all", 1)
    assert found.settings.low_high is None
    assert f"ridge was built on all images of {tmp_path / 'train.npz'}; " in found.settings.tuned
    assert evaluate([task], output=output, heads=Heads(few_shot=FewShot(("ridge",), ("all",), seeds=5))).measured == 0
    held_out = evaluate(
        [task], output=output, heads=Heads(few_shot=FewShot(("ridge",), ("all",), validate=True))
    ).results[1]
    assert "train.npz; its open settings were chosen on the first fifth of each class" in held_out.settings.tuned
    with pytest.raises(ValueError, match="Pets has no train split, from which all images would be drawn; name one, or"):
        evaluate([replace(task, train=None)], output=output, heads=Heads(few_shot=FewShot(("ridge",), ("all",))))


def test_the_command_draws_shots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = features_file(tmp_path / "pets.npz", images=6, seed=0)
    output = str(tmp_path / "r.parquet")
    few = ["--head", "ridge", "--shots", "2", "4", "--seeds", "2", "--validate"]
    assert app(["evaluate", str(place), "-o", output, *few], result_action="return_value") in (0, None)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  top-1")[0] for line in lines[:3]] == [
        "pets | a {} [T0]", "pets | a {} + ridge, 2 shots [T0+FS]", "pets | a {} + ridge, 4 shots [T0+FS]",
    ]  # fmt: skip
    assert app(["evaluate", str(place), "--validate"], result_action="return_value") == 1
    assert "--validate holds out a fifth of the shots; add --shots" in capsys.readouterr().err

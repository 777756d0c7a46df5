"""The sections and tables of the report, from results made by hand: each only where its numbers are."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from inputs.results import COUNTS, SETTINGS
from rag_clip.evaluation.results import IMAGES, Measure, Result
from rag_clip.evaluation.settings import HeadFacts
from rag_clip.report.charts import draw_accuracies
from rag_clip.report.evaluation import write_evaluation
from rag_clip.report.examples import answers
from rag_clip.report.growth import margins, openness, thefts
from rag_clip.report.numbers import across_tasks, numbers, ranking
from rag_clip.report.shots import few_shots
from rag_clip.report.shown import COLOURS, PALE, Shown, holding, paint, shorten
from rag_clip.report.wording import adversarial_names, synonym_swaps


def run(
    name: str,
    accuracy: float,
    *measures: Measure,
    tier: str = "T0",
    task: str = "t",
    head: HeadFacts | None = None,
) -> Result:
    first = Measure("accuracy", "", accuracy, accuracy - 0.02, accuracy + 0.02)
    return Result(task, name, tier, name, replace(SETTINGS, head=head), COUNTS, (first, *measures))


def series(metric: str, values: dict[str, float]) -> list[Measure]:
    return [Measure(metric, item, value) for item, value in values.items()]


def shots(text: str, head: str, values: Mapping[Any, float]) -> list[Result]:
    return [
        run(f"{text} + {head}, {count} shots", value, tier="T0+FS", head=HeadFacts(name=head, shots=count))
        for count, value in values.items()
    ]


def drawn(page: str) -> dict[str, list[str]]:
    """Read the words of every chart of a page, by its name."""
    found = re.findall(r'<img alt="([^"]+)" src="data:image/svg\+xml;base64,([^"]+)"', page)
    return {name: re.findall(r"<!-- (.*?) -->", base64.b64decode(data).decode()) for name, data in found}


def rows(page: str) -> list[list[str]]:
    return [
        [re.sub(r"<small>.*?</small>|<[^>]+>", "", cell) for cell in re.findall(r"<t[dh]>(.*?)</t[dh]>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", page)
    ]


TEMPLATES = run(
    "templates",
    0.5,
    *series("accuracy_by_groups", {"1": 0.7, "2": 0.5}),
    *series("accuracy_by_classes", {"1": 1.0, "2": 0.8, "4": 0.5}),
    *series("taken_by_group", {"x ← x": 0.2, "x ← y": 0.4, "y ← x": 0.004}),
    *series("taken", {"a ← <c>": 0.5, "b ← a": 0.25}),
    *series("thieves_mean", {"a": 0.75, "b": 0.0}),
    *series("margin_first", {"0.00": -1.0, "0.50": 1.0, "1.00": 3.0}),
    Measure("margin_last", "", 0.25, 0.125, 0.375),
    *series("margin_last", {"0.00": -2.0, "0.50": 0.0, "1.00": 2.0}),
    *series("adversarial_name", {"cat & dog": 0.25, "sofa": 0.375}),
    *series("adversarial_set", {"cat & dog": 0.25, "lamp": 0.125}),
    Measure("certified", "", 0.0625),
    *series("recall", {"a": 0.75, "b": 0.25}),
    Measure("swap_kept", "", 0.875),
    Measure("swap_accuracy", "", 0.4375),
    Measure("swap_recall_before", "", 0.6),
    Measure("swap_recall", "", 0.3),
    *series("swap_recall", {"a → first": 0.5, "b → second": 0.5}),
)
BEST = run("best", 0.6, *series("taken", {"a ← <c>": 0.375}), tier="T1")


def test_sections_without_their_numbers_are_empty() -> None:
    bare = paint([run("templates", 0.5)])
    assert [make(bare) for make in (openness, margins, thefts, adversarial_names, synonym_swaps)] == [""] * 5
    assert few_shots([run("templates", 0.5)], title="top-1") == ""
    assert across_tasks([run("templates", 0.5), run("default", 0.6)]) == ""


def test_openness_is_drawn_by_groups_and_by_single_classes_on_a_logarithmic_axis() -> None:
    words = drawn(openness(paint([TEMPLATES])))["Openness."]
    assert words[:4] == ["1", "2", "groups in the vocabulary", "50%"]
    assert words[words.index("50.0%") :][1:5] == ["1", "2", "4", "classes in the vocabulary"]
    text = openness(paint([run("classes", 0.5, *series("accuracy_by_classes", {"1": 1.0, "2": 0.5}))]))
    assert "Groups of classes" not in text
    assert "this starts at 100 % and ends at the mean per class" in text


def test_margins_are_drawn_at_the_first_and_the_last_step() -> None:
    page = margins(paint([TEMPLATES, BEST]))
    words = drawn(page)["Margins."]
    assert "Means among all classes, with 95 % intervals: templates [names] 0.25 (0.12 … 0.38)." in page
    assert [word for word in words if word.startswith("margin")] == [
        "margin within its own group, in logits",
        "margin among all classes, in logits",
    ]


def test_thefts_show_shares_by_group_and_the_worst_pairs_with_a_dash_for_what_was_not_kept() -> None:
    page = thefts(paint([TEMPLATES, BEST]))
    words = drawn(page)["Shares taken, by group."]
    assert words == [
        "x", "y", "taken by", "x", "y", "% of the images of", "20", "40", "templates [names]",
        "x", "y", "taken by", "best [corpus]",
    ]  # fmt: skip
    assert rows(page) == [
        ["images of ← taken by", "templates [names]", "best [corpus]"],
        ["a ← &lt;c&gt;", "50.0%", "37.5%"],
        ["b ← a", "25.0%", "–"],
    ]
    assert "the most other groups, with the mean number of groups per image: templates [names]: a (0.75)." in page


def test_adversarial_names_show_what_each_name_and_the_growing_set_leave() -> None:
    charts = drawn(adversarial_names(paint([TEMPLATES])))
    single = charts["The worst single names."]
    assert [word for word in single if word in ("cat &amp; dog", "sofa", "25.0%", "37.5%", "50.0% before")] == [
        "cat &amp; dog", "sofa", "25.0%", "37.5%", "50.0% before",
    ]  # fmt: skip
    assert single[-1] == "templates [names]"
    assert charts["The worst set of names."][-3:] == ["12.5%", "6.2%", "templates [names]"]


def test_synonym_swaps_show_the_means_and_the_classes_that_lose_most() -> None:
    page = synonym_swaps(paint([TEMPLATES]))
    assert {"87.5%", "43.8%", "30.0%"} <= set(drawn(page)["Synonyms."])
    assert rows(page) == [["recall, class → synonym", "templates [names]"], ["a → first", "75% → 50%"]]


def test_few_shots_are_drawn_beside_their_text_alone_with_all_images_last() -> None:
    results = [
        run("templates", 0.5),
        *shots("templates", "linear_probe", {"all": 0.9, 4: 0.7, 1: 0.3}),
        *shots("templates", "tip_adapter", {1: 0.55, 4: 0.6}),
    ]
    page = few_shots(results, title="top-1")
    assert "is a single run, with its 95 % interval." in page
    words = drawn(page)["Shots."]
    assert words[:4] == ["1", "4", "all", "images per class"]
    assert words[-7:] == [
        "top-1", "90.0%", "60.0%", "50.0%", "templates [names]",
        "linear_probe [names, labels]", "tip_adapter [names, labels]",
    ]  # fmt: skip


def test_shots_of_two_files_compared_are_no_curve() -> None:
    again = [replace(one, run=f"{one.run} (after)") for one in shots("templates", "como", {1: 0.5, 2: 0.6})]
    assert few_shots(again, title="top-1") == ""


def test_of_many_texts_and_heads_the_section_of_shots_says_what_it_leaves_out() -> None:
    results = [run(f"text {place}", place / 10) for place in range(5)]
    results += [one for place in range(5) for one in shots(f"text {place}", "como", {1: 0.5})]
    assert "Only in the table: 2 more texts and 0 more heads." in few_shots(results, title="top-1")


def test_the_table_across_tasks_has_the_mean_of_runs_that_every_task_has() -> None:
    results = [
        run("templates", 0.5, task="pets"), run("default", 0.6, task="pets", tier="T1"), run("odd", 0.9, task="pets"),
        run("templates", 0.7, task="cars"), run("default", 0.8, task="cars", tier="T1+FS"),
    ]  # fmt: skip
    page = across_tasks(results)
    assert rows(page) == [
        ["run", "mean", "pets", "cars"],
        ["default corpus corpus, labels", "70.0%", "60.0%", "80.0%"],
        ["templates names", "60.0%", "50.0%", "70.0%"],
    ]
    assert "1 of 3 runs lack the result of a task, and so have no mean." in page


def test_the_table_across_tasks_names_each_task_s_metric_where_they_are_unlike() -> None:
    several = Result("voc", "templates", "T0", "k", SETTINGS, COUNTS, (Measure("map_11_point", "", 0.4),))
    page = across_tasks([run("templates", 0.8, task="pets"), several])
    assert rows(page) == [
        ["run", "mean", "pets, top-1", "voc, mAP, 11 points"],
        ["templates names", "60.0%", "80.0%", "40.0%"],
    ]


def test_every_chart_of_runs_marks_their_tiers_or_has_the_colours_of_the_one_key(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "r.html", [TEMPLATES, BEST, *shots("templates", "como", {1: 0.5, 2: 0.6})])
    page = (tmp_path / "r.html").read_text()
    charts = drawn(page)
    assert list(charts) == [
        "top-1 of every run.", "Shots.", "Openness.", "Margins.", "Shares taken, by group.",
        "The worst single names.", "The worst set of names.", "Synonyms.",
    ]  # fmt: skip
    for name, words in charts.items():
        assert any("[names]" in word for word in words) == (name not in ("Openness.", "Margins.")), name
    assert page.count('<ul class="key"') == 1
    assert f'<li><i style="background:{COLOURS[0]}"></i>templates [names]</li>' in page
    write_evaluation(tmp_path / "one.html", [TEMPLATES])
    assert '<ul class="key"' not in (tmp_path / "one.html").read_text()


def test_of_many_runs_those_of_few_shots_have_no_bars_and_long_tables_are_folded(tmp_path: Path) -> None:
    few = shots("templates", "como", dict.fromkeys(range(1, 25), 0.5))
    write_evaluation(tmp_path / "r.html", [run("templates", 0.5), *few])
    page = (tmp_path / "r.html").read_text()
    assert [word for word in drawn(page)["top-1 of every run."] if "[" in word] == ["templates [names]"]
    assert "<details><summary>All numbers of 25 runs</summary>" in page
    assert page.count("<details><summary>The settings of 25 runs</summary><details><summary>t: templates ") == 1


def test_openness_has_whole_steps_of_percent_below_it() -> None:
    opened = [Measure("acc_c", "", 0.92), Measure("acc_e", "", 0.84), Measure("acc_s", "", 0.76)]
    words = re.findall(r"<!-- (.*?) -->", draw_accuracies([Shown(run("templates", 0.5, *opened), PALE)]))
    assert [word for word in words if re.fullmatch(r"[789][\d.]*%", word)] == ["80%", "85%", "90%"]


def test_an_interval_without_width_is_left_out_and_said_to_be_no_certainty() -> None:
    page = numbers([run("templates", 0.5, Measure("acc_c", "", 0.95, 0.95, 0.95), Measure("ece", "", 0.1, 0.05, 0.2))])
    assert "<td>95.0%</td><td>10.0%<small>5.0 … 20.0</small></td>" in page
    assert "to show any spread prove nothing." in page
    assert "no certainty" not in numbers([run("templates", 0.5)])


def test_many_runs_are_points_between_the_least_and_the_greatest_number() -> None:
    bars = [Shown(run(f"{place:02}", 0.5 + place / 200), PALE) for place in range(25)]
    words = re.findall(r"<!-- (.*?) -->", draw_accuracies(bars))
    assert [word for word in words if "[" in word] == [bar.name() for bar in bars]
    assert {word for word in words if re.fullmatch(r"\d+%", word)} == {"50%", "55%", "60%", "65%"}
    words = re.findall(r"<!-- (.*?) -->", draw_accuracies(bars[:24]))
    assert [word for word in words if re.fullmatch(r"\d+%", word)][:2] == ["0%", "10%"]


def test_of_many_tasks_all_but_the_first_are_folded_up(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "r.html", [run("templates", 0.5, task=name) for name in ("pets", "cars", "dtd", "sun")])
    page = (tmp_path / "r.html").read_text()
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["pets", "Settings, and how they were chosen"]
    assert re.findall(r"<details><summary>(\w+)</summary>", page) == ["cars", "dtd", "sun"]


def test_numbers_that_only_few_runs_have_are_found_among_all_runs() -> None:
    results = [run(f"{place:02}", place / 40) for place in range(20)]
    results[7] = run("07", 7 / 40, Measure("certified", "", 0.1))
    shown = [one for one in paint(results) if one.result.run != "07"]
    assert [one.name() for one in holding(shown, results, "certified")] == ["07 [names]"]


def test_of_shots_drawn_several_times_the_first_answer_to_an_image_counts() -> None:
    columns: dict[str, list[Any]] = {"row": [1, 2, 2, 3], "target": [0] * 4, "predicted": [0, 1, 0, 0]}
    columns |= {"confidence": [0.5] * 4, "right": [True, False, True, True], "draw": [0, 0, 1, 1]}
    one = Result("t", "r", "T0", "k", SETTINGS, COUNTS, (), pa.table(columns, schema=IMAGES))
    assert answers(one)["right"].to_list() == [True, False, True]


def test_long_names_are_cut_in_the_middle() -> None:
    assert shorten("templates + linear_probe, 16 shots", 20) == "templates…16 shots"
    assert shorten("short", 5) == "short"


def test_numbers_that_would_widen_the_table_are_folded_up_below_it() -> None:
    one = run("templates", 0.5, Measure("ece", "", 0.1), Measure("brier", "", 0.25), Measure("parameters", "", 1280))
    page = numbers([one, run("default", 0.6)])
    assert rows(page) == [
        ["run", "top-1", "ECE"], ["templates names", "50.0%", "10.0%"],
        ["default names", "60.0%", ""],
        ["run", "Brier", "trained"], ["templates names", "0.250", "1,280"], ["default names", "", ""],
    ]  # fmt: skip
    assert "<details><summary>More: Brier, trained</summary>" in page


def test_runs_are_ranked_and_told_apart_from_the_best_by_their_paired_difference() -> None:
    def of(name: str, right: int) -> Result:
        columns = {
            "seed": [0] * 100, "row": list(range(100)), "target": [0] * 100,
            "predicted": [0] * right + [1] * (100 - right), "confidence": [0.5] * 100,
            "right": [True] * right + [False] * (100 - right),
        }  # fmt: skip
        kept = pa.table({each.name: columns.get(each.name, [0] * 100) for each in IMAGES}, schema=IMAGES)
        measure = (Measure("accuracy", "", right / 100),)
        return Result("t", name, "T0", name, SETTINGS, COUNTS, measure, kept)

    found = rows(ranking([of("worst", 40), of("best", 80), of("near", 79)]))
    assert [row[0] for row in found] == ["run", "1. best names", "2. near names", "3. worst names"]
    assert [row[-1] for row in found] == ["verdict", "best", "not told apart", "behind"]
    assert ranking([of("a", 1), of("b", 2)]) == ""

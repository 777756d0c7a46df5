from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from rag_clip.support.shots import choose_shared_shots, choose_shots

LABELS = ["a"] * 10 + ["b"] * 3 + [""] * 5 + ["c"] * 20


def names(rows: tuple[int, ...]) -> Counter[str]:
    return Counter(LABELS[row] for row in rows)


def test_k_images_of_each_class_and_four_at_most_to_validate():
    shots = choose_shots(LABELS, k=5)
    assert (names(shots.support), names(shots.validation)) == ({"a": 5, "b": 3, "c": 5}, {"a": 4, "c": 4})
    assert not set(shots.support) & set(shots.validation)
    assert shots.short == {"b": 3}
    assert names(choose_shots(LABELS, k=2).validation) == {"a": 2, "b": 1, "c": 2}


def test_without_validation_every_image_may_be_support():
    shots = choose_shots(LABELS, k=100, validation="none")
    assert sorted(shots.support) == [row for row, name in enumerate(LABELS) if name]
    assert (shots.validation, shots.short) == ((), {"a": 10, "b": 3, "c": 20})


def test_a_seed_draws_the_same_rows_whatever_the_other_classes_and_more_shots_go_on_from_fewer():
    fewer, more = choose_shots(LABELS, k=2, seed=7), choose_shots(LABELS, k=4, seed=7)
    assert choose_shots(LABELS, k=2, seed=7) == fewer
    assert choose_shots(LABELS, k=2, seed=8) != fewer
    assert set(fewer.support) <= set(more.support)
    assert choose_shots(LABELS[:10], k=2, seed=7).support == fewer.support[:2]


@pytest.mark.parametrize(
    ("labels", "k", "validation", "message"),
    [
        (LABELS, 0, "none", "k is 0; draw at least one"),
        (LABELS, 1, "all", "unknown validation 'all'; known are min\\(k,4\\), none"),
        (["", ""], 1, "none", "none of the 2 rows has a label"),
    ],
)
def test_what_cannot_be_drawn_is_refused(labels: list[str], k: int, validation: Any, message: str):
    with pytest.raises(ValueError, match=message):
        choose_shots(labels, k=k, validation=validation)


def test_rows_of_several_classes_count_for_all_of_them():
    # the 3 rows of c all have b, so b needs no rows of its own until more than 3 are asked for; a goes alone
    rows = [["b", "c"]] * 3 + [["b"]] * 10 + [["a"]] * 4 + [[]]
    for seed in range(9):
        three, five = (choose_shared_shots(rows, k=k, seed=seed) for k in (3, 5))
        assert Counter(name for row in three.support for name in rows[row]) == {"a": 3, "b": 3, "c": 3}
        assert Counter(name for row in five.support for name in rows[row]) == {"a": 4, "b": 5, "c": 3}
        assert (three.short, five.short) == ({}, {"c": 3, "a": 4})
        assert five.support[: len(three.support)] == three.support


def test_rows_of_one_class_each_are_drawn_as_if_there_were_no_others():
    for k in (1, 4, 30):
        alone = choose_shots(LABELS, k=k, seed=5, validation="none")
        assert set(choose_shared_shots([[name] if name else [] for name in LABELS], k=k, seed=5).support) == set(
            alone.support
        )


@pytest.mark.parametrize(("rows", "k", "message"), [([["a"]], 0, "k is 0"), ([[], []], 1, "none of the 2 rows")])
def test_shared_shots_that_cannot_be_drawn_are_refused(rows: list[list[str]], k: int, message: str):
    with pytest.raises(ValueError, match=message):
        choose_shared_shots(rows, k=k)

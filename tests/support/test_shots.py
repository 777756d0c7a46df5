from __future__ import annotations

from collections import Counter

import pytest

from rag_clip.support.shots import choose_shots

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
def test_what_cannot_be_drawn_is_refused(labels: list[str], k: int, validation: str, message: str):
    with pytest.raises(ValueError, match=message):
        choose_shots(labels, k=k, validation=validation)

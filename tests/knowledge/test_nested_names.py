from __future__ import annotations

from rag_clip.data import LabelSet
from rag_clip.prompts.knowledge.nested_names import count_alone

LABELS = LabelSet(("tiger", "shark", "Tiger-Shark", "sand tiger shark"))


def test_what_stands_inside_longer_names_of_other_classes_is_taken_away_once():
    counts = {"tiger": 100, "shark": 50, "Tiger-Shark": 30, "sand tiger shark": 10, "cat": 7}
    names = [("tiger", "cat"), ("shark",), ("Tiger-Shark",), ("sand tiger shark",)]
    assert count_alone(LABELS, names, counts) == [[70, 7], [20], [20], [10]]


def test_a_name_inside_a_longer_name_of_its_own_class_keeps_its_count():
    labels = LabelSet(("red fox", "owl"))
    assert count_alone(labels, [("red fox", "fox"), ("owl",)], {"red fox": 4, "fox": 9, "owl": 1}) == [[4, 9], [1]]


def test_letters_inside_a_word_are_not_a_name():
    labels = LabelSet(("can", "pelican", "can opener"))
    counts = {"can": 5, "pelican": 3, "can opener": 2}
    assert count_alone(labels, [("can",), ("pelican",), ("can opener",)], counts) == [[3], [3], [2]]


def test_overlapping_longer_names_never_make_a_count_negative():
    labels = LabelSet(("shark", "great shark", "shark fin"))
    counts = {"shark": 3, "great shark": 3, "shark fin": 3}
    assert count_alone(labels, [("shark",), ("great shark",), ("shark fin",)], counts) == [[0], [3], [3]]


def test_names_of_hundreds_of_words_and_of_one_character_are_counted():
    long = " ".join(["so"] * 300)
    labels = LabelSet(("x", "x ray", long))
    assert count_alone(labels, [("x",), ("x ray",), (long,)], {"x": 9, "x ray": 4, long: 1}) == [[5], [4], [1]]

from __future__ import annotations

import pytest

from rag_clip.data import LabelSet
from rag_clip.prompts.knowledge.names import NameMatch, count_alone, folded, match_names


def test_keys_find_their_class_whatever_case_separator_and_accent():
    labels = LabelSet(("Fire_Truck", "café", "sea horse", "Ångström", "owl"))
    keys = ("fire-truck", "CAFE\u0301", "Sea\u2013Horse", "  angstrom ", "eagle")
    assert match_names(labels, keys) == NameMatch(
        {"fire-truck": 0, "CAFE\u0301": 1, "Sea\u2013Horse": 2, "  angstrom ": 3}, ("eagle",), ("owl",)
    )


def test_a_synonym_names_a_class_that_no_key_names_itself():
    labels = LabelSet(("couch", "crane"), synonyms=(("sofa", "settee"), ("heron",)))
    keys = ("Sofa", "settee", "heron", "crane")
    assert match_names(labels, keys) == NameMatch({"Sofa": 0, "settee": 0, "crane": 1}, ("heron",), ())


def test_the_very_name_comes_before_another_spelling_and_before_a_synonym_of_another_class():
    labels = LabelSet(("jaguar", "Jaguar", "panther"), synonyms=((), (), ("Jaguar",)))
    assert match_names(labels, ("jaguar", "Jaguar")) == NameMatch({"jaguar": 0, "Jaguar": 1}, (), ("panther",))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            LabelSet(("bird", "machine"), synonyms=(("crane",), ("Crane",))),
            "'CRANE' is a synonym of both 'bird' and 'machine'; spell it as one of them, or take it from one's",
        ),
        (LabelSet(("crane", "Crane")), "'CRANE' is a spelling of both 'crane' and 'Crane'"),
    ],
)
def test_a_key_that_fits_two_classes_is_refused_with_both_named(labels: LabelSet, message: str):
    with pytest.raises(ValueError, match=message):
        match_names(labels, ("CRANE",))


def test_marks_that_are_letters_of_their_script_are_kept():
    assert (folded("が"), folded("か"), folded("ไม่"), folded("हिन्दी")) == ("が", "か", "ไ ม ่", "हिन्दी")
    assert (folded("Ёлка"), folded("ﬁrst"), folded("猫"), folded("-")) == ("елка", "first", "猫", "")


def test_names_of_separators_alone_match_only_themselves():
    assert match_names(LabelSet(("-", "_")), ("_", " ")) == NameMatch({"_": 1}, (" ",), ("-",))


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

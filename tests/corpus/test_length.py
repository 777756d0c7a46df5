from __future__ import annotations

import pyarrow as pa

from rag_clip.corpus.length import length


def run(*texts, **bounds):
    kept = length(**bounds)(pa.table({"text": texts}))
    return kept.selected["text"].to_pylist(), kept.reason, kept.score


def test_bounds_in_words_are_inclusive():
    texts = ("red", "red flag", "a red flag", "a red flag !", "one two three four")
    assert run(*texts, min_words=2, max_words=3) == (
        ["red flag", "a red flag", "a red flag !"],
        ("few_words", "many_words"),
        (1.0, 4.0),
    )


def test_bounds_in_characters_are_inclusive():
    assert run("é", "éé", "ééé", "éééé", min_characters=2, max_characters=3) == (
        ["éé", "ééé"],
        ("few_characters", "many_characters"),
        (1.0, 4.0),
    )


def test_words_are_reported_before_characters():
    assert run("a", min_words=2, min_characters=2) == ([], ("few_words",), (1.0,))


def test_each_letter_of_a_script_without_spaces_is_a_word():
    assert run("赤い旗", "旗", "don't stop", "blue-green", min_words=2) == (
        ["赤い旗", "don't stop", "blue-green"],
        ("few_words",),
        (1.0,),
    )


def test_without_bounds_everything_is_kept():
    assert run("", "a") == (["", "a"], (), ())

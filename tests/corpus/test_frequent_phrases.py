"""Frequent phrases: which are counted, in what order, and what bounds the memory."""

from __future__ import annotations

import polars as pl
import pytest

from rag_clip.corpus import frequent_phrases as module
from rag_clip.corpus.frequent_phrases import frequent_phrases


def phrases(*texts: str, most: int = 100) -> dict[str, int]:
    return frequent_phrases([pl.Series([text]) for text in texts], most=most)


def test_phrases_of_one_to_three_words_are_counted_most_frequent_first() -> None:
    assert phrases("Red fox, red fox!") == {
        "fox": 2, "red": 2, "red fox": 2, "fox red": 1, "fox red fox": 1, "red fox red": 1,
    }  # fmt: skip
    assert list(phrases("one two", "two", "two one", most=3).items()) == [("two", 3), ("one", 2), ("one two", 1)]


def test_no_phrase_begins_or_ends_with_a_function_word_and_none_is_without_letters() -> None:
    assert set(phrases("a Bird of the sea, 2016 and")) == {"bird", "sea", "sea 2016"}
    assert set(phrases("bird of paradise 3")) == {"bird", "paradise", "bird of paradise", "paradise 3"}
    assert set(phrases("offal")) == {"offal"}


def test_phrases_do_not_cross_captions() -> None:
    assert set(frequent_phrases([pl.Series(["red", "fox"])], most=9)) == {"red", "fox"}


def test_letters_of_scripts_without_spaces_stand_together() -> None:
    assert set(phrases("白云山")) == {"白", "云", "山", "白云", "云山", "白云山"}


def test_the_rarest_are_dropped_where_too_many_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD", 4)
    assert phrases("fox fox fox", "owl", "elk", "fox") == {"fox": 4, "fox fox": 2}


def test_no_caption_has_no_phrase() -> None:
    assert frequent_phrases([], most=5) == {}

from __future__ import annotations

import random
import re

import polars as pl
import pyarrow as pa

from rag_clip.corpus.phrases import frequent_phrases, phrase_counts


def test_phrases_are_matched_as_whole_words_in_any_case():
    table = pa.table({"text": ["A Red flag; red flag.", "catalogue of red flags", "Maine-Coon cat", None, "red  FLAG"]})
    asked = ["red flag", "cat", "maine coon", "Maine Coon cat", "flag red", "", "red"]
    assert phrase_counts([table], asked) == {
        "red flag": 3,
        "cat": 1,
        "maine coon": 1,
        "Maine Coon cat": 1,
        "flag red": 1,
        "": 0,
        "red": 4,
    }


def test_phrases_do_not_reach_from_one_caption_into_the_next():
    assert phrase_counts([pa.table({"text": ["a red", "flag"]})], ["red flag"]) == {"red flag": 0}


def test_overlapping_occurrences_count_each():
    assert phrase_counts([pa.table({"text": ["ha ha ha ha"]})], ["ha ha", "ha ha ha"]) == {"ha ha": 3, "ha ha ha": 2}


def test_counts_agree_with_regular_expressions_over_many_phrases_and_tables():
    draw = random.Random(5)
    words = ["red", "flag", "sea", "a", "of", "blue"]
    texts = [" ".join(draw.choices(words, k=draw.randint(0, 9))) for _ in range(300)]
    phrases = [" ".join(draw.choices(words, k=draw.randint(1, 4))) for _ in range(80)]
    whole = pa.table({"text": texts})
    tables = [whole.slice(start, 37) for start in range(0, 300, 37)]
    expected = {
        phrase: sum(len(re.findall(rf"(?<!\S)(?={re.escape(phrase)}(?!\S))", text)) for text in texts)
        for phrase in phrases
    }
    assert phrase_counts(tables, phrases) == expected


def phrases(*texts: str, most: int = 100, limit: int = 4_000_000) -> dict[str, int]:
    return frequent_phrases([pl.Series([text]) for text in texts], most=most, limit=limit)


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


def test_the_rarest_are_dropped_where_too_many_are_held() -> None:
    assert phrases("fox fox fox", "owl", "elk", "fox", limit=4) == {"fox": 4, "fox fox": 2}


def test_no_caption_has_no_phrase() -> None:
    assert frequent_phrases([], most=5) == {}

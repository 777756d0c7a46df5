from __future__ import annotations

import random
import re

import pyarrow as pa

from rag_clip.corpus.phrases import phrase_counts


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

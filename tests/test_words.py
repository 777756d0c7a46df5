"""One folding: what finds a name in a caption drops it, matches it and counts it."""

from __future__ import annotations

import random
import unicodedata

import polars as pl
import pyarrow as pa
import pytest

from rag_clip.corpus.counts.tokens import folded_words_of
from rag_clip.corpus.phrases import phrase_counts
from rag_clip.data import Kept, LabelSet
from rag_clip.prompts.knowledge.names import match_names
from rag_clip.prompts.mentions import Mentions
from rag_clip.prompts.retrieved import contains_phrase, without_name
from rag_clip.words import holds_any, spans_of, words_of

SPELLINGS = [
    ("St. Bernard", "a st bernard dog in the snow", "a dog in the snow"),
    ("st bernard", "a St. Bernard dog in the snow", "a dog in the snow"),
    ("AC/DC", "a loud AC DC concert at night", "a loud concert at night"),
    ("ac dc", "a loud AC/DC concert at night", "a loud concert at night"),
    ("Straße", "eine lange STRASSE in Berlin", "eine lange in Berlin"),
    (unicodedata.normalize("NFD", "café"), "a nice big café terrace", "a nice big terrace"),
    ("café", unicodedata.normalize("NFD", "a nice big café terrace"), "a nice big terrace"),
    ("ﬁnch", "a small finch on a branch", "a small on a branch"),
    ("finch", "a small ﬁnch on a branch", "a small on a branch"),
    ("Queen Anne's lace", "a field of Queen Anne’s lace in bloom", "a field of in bloom"),
    ("Queen Anne’s lace", "a field of Queen Annes' lace in bloom", None),
    ("St. Bernard", "the St. Bernard’s bowl of food", "the bowl of food"),
    ("C++", "a worn c++ book on the desk", "a worn book on the desk"),
    ("Lego", "a red Lego™ brick on white", "a red ™ brick on white"),
    ("cooperate", "we co\u00adoperate on this task", "we on this task"),
    ("ガ", "大きなｶﾞの写真", "大きな の写真"),
    ("が", unicodedata.normalize("NFD", "大きながの写真"), "大きな の写真"),
    ("हिन्दी", "मैं हिन्दी में बोलता हूँ", "मैं में बोलता हूँ"),
    ("हिन", "मैं हिन्दी में बोलता हूँ", None),
    ("自行车", "红色的自行车靠在墙边", "红色的 靠在墙边"),
    ("Hawai'i", "the beach of Hawaiʻi at night", "the beach of at night"),
]
CHARACTERS = "aAsS' ’`-_.ßﬁéİK½™\u0301\u00ad\ufe0f狗がｶﾞก"


@pytest.mark.parametrize(("name", "caption", "left"), SPELLINGS)
def test_what_finds_a_name_drops_matches_and_counts_it(name: str, caption: str, left: str | None) -> None:
    held = left is not None
    assert contains_phrase(name)(caption) is held
    assert without_name(name)(caption) == (left if held else caption)
    assert Mentions(LabelSet((name, "unsaid"))).names(caption) == (
        {unicodedata.normalize("NFC", name)} if held else set()
    )
    table = pa.table({"text": [caption]})
    assert phrase_counts([table], [name], rules=lambda rows: Kept(rows, rows.slice(0, 0), ())) == {name: int(held)}


@pytest.mark.parametrize(("name", "key"), [("St. Bernard", "st_bernard"), ("AC/DC", "ac-dc"), ("Straße", "STRASSE")])
def test_knowledge_finds_its_class_by_the_same_words(name: str, key: str) -> None:
    assert match_names(LabelSet((name, "other")), [key]).rows == {key: 0}


def texts(count: int) -> list[str]:
    draw = random.Random(1)
    return ["".join(draw.choices(CHARACTERS, k=draw.randint(1, 9))) for _ in range(count)]


def test_places_are_found_exactly_where_the_predicate_says() -> None:
    drawn = texts(70)
    found = {(name, text) for name in drawn for text in drawn if holds_any([name])(text)}
    assert found == {(name, text) for name in drawn for text in drawn if spans_of([name])(text)}
    assert found == {
        (name, text)
        for name in drawn
        for text in drawn
        if words_of(name) and f" {' '.join(words_of(name))} " in f" {' '.join(words_of(text))} "
    }
    assert len(found) > len(drawn)


def test_a_text_without_the_places_of_a_name_no_longer_holds_it() -> None:
    for name in texts(30):
        for text in texts(100):
            left = text
            for start, end in reversed(spans_of([name])(text)):
                left = f"{left[:start]} | {left[end:]}"
            assert not holds_any([name])(left)


def test_tables_of_texts_have_the_words_of_each_text() -> None:
    drawn = [*texts(500), "It's a dog's life, AC/DC `s x_y", "", "plain words"]
    found = folded_words_of(pl.Series([*drawn, None]))
    expected = [(row, word) for row, text in enumerate(drawn) for word in words_of(text)]
    assert list(found.select("row", "gram").iter_rows()) == expected


def test_the_longest_of_several_phrases_counts_and_endings_stay_outside() -> None:
    text = "Two tiger-sharks, a tiger’s tail and foxes"
    spans = spans_of(["tiger", "Tiger shark", "fox"], endings=True)(text)
    assert [text[start:end] for start, end in spans] == ["tiger-shark", "tiger", "fox"]
    spans = spans_of(["tiger", "Tiger shark", "fox"])(text)
    assert [text[start:end] for start, end in spans] == ["tiger", "tiger’s"]


def test_a_name_between_spaces_is_held_as_when_words_are_split() -> None:
    names = ["s", "fox", "red fox", "dog s", "4x4"]
    texts = [
        "a fox",
        "fox's",
        "' s",
        "it 's s",
        "Red  fox",
        "red fox",
        "dog 's",
        "dog s",
        "dog's s",
        "4x4",
        "foxes",
        "a_fox",
    ]
    for name in names:
        for text in texts:
            assert holds_any([name])(text) == (f" {name} " in f" {' '.join(words_of(text))} "), (name, text)

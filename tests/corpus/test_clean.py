from __future__ import annotations

import pyarrow as pa
import pytest

from rag_clip.corpus.clean import clean, repair


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("  a red\t flag \n", "a red flag"),
        ("schÃ¶ne Blume", "schöne Blume"),
        ("cafe\u0301", "caf\u00e9"),
        ("cats &amp; dogs", "cats & dogs"),
        ("a\u00a0red\u200aflag", "a red flag"),
        ("bell\x07", "bell"),
        ("A Red Flag", "A Red Flag"),
        ("\ufeff", ""),
        ("赤い旗", "赤い旗"),
    ],
)
def test_repair_undoes_what_the_web_did_to_a_caption(raw, expected):
    assert repair(raw) == expected
    assert repair(expected) == expected


def test_null_and_empty_captions_are_dropped_with_their_reason():
    records = pa.table({"text": ["a flag", None, "  ", " a  kite", ""], "source": ["w", "w", "c", "c", "w"]})
    kept = clean(records)
    assert kept.selected.to_pydict() == {"text": ["a flag", "a kite"], "source": ["w", "c"]}
    assert kept.dropped.to_pydict() == {"text": [None, "  ", ""], "source": ["w", "c", "w"]}
    assert kept.reason == ("null", "empty", "empty")


def test_captions_of_nothing_but_markup_or_of_absurd_length_are_told_apart():
    texts = ["<p>http://x.org</p>", "flag" * 16_384, "x" * 65_537, "&nbsp;", "a <b>flag</b>"]
    kept = clean(pa.table({"text": texts}))
    assert kept.selected["text"].to_pylist() == ["flag" * 16_384, "a flag"]
    assert kept.reason == ("markup", "oversized", "markup")


def test_each_text_is_repaired_as_if_alone():
    texts = ["a flag", "schÃ¶ne Blume", " two  spaces", "tab\tbed", "www.x.org flag", "WWW.X.ORG flag", "[url]flag"]
    assert clean(pa.table({"text": texts})).selected["text"].to_pylist() == [repair(text) for text in texts]


def test_one_batch_or_many_give_the_same_answer():
    records = pa.table({"text": ["a", None, "a", "", " b "], "row": range(5)})
    whole = clean(records)
    parts = [clean(records.slice(row, 1)) for row in range(5)]
    assert pa.concat_tables([part.selected for part in parts]).to_pydict() == whole.selected.to_pydict()
    assert pa.concat_tables([part.dropped for part in parts]).to_pydict() == whole.dropped.to_pydict()
    assert sum((part.reason for part in parts), ()) == whole.reason


def test_a_table_without_rows_stays_one():
    kept = clean(pa.table({"text": pa.array([], pa.string())}))
    assert (kept.selected.num_rows, kept.dropped.num_rows, kept.reason) == (0, 0, ())


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("a <b>red</b> flag<br/>in wind", "a red flag in wind"),
        ('<a href="http://x.org/p?q=1" title="t">red flag</a>', "red flag"),
        ("red flag <!-- <b>hidden</b> --> at sea", "red flag at sea"),
        ("<script>var x = 1 < 2;</script>red flag<style>p { color: red }</style>", "red flag"),
        ('red flag <img src="flag.jpg', "red flag"),
        ("&lt;em&gt;red&lt;/em&gt; flag", "red flag"),
        ("<i>cats</i> &amp; dogs", "cats & dogs"),
        ("red flag http://example.org/a/b.jpg at sea", "red flag at sea"),
        ("red flag (https://example.org)", "red flag ( )"),
        ("Red flag - WWW.EXAMPLE.ORG", "Red flag -"),
        ('[caption id="3" align="left"]red flag[/caption]', "red flag"),
        ("https://example.org/red-flag.jpg", ""),
        ("<p></p>", ""),
    ],
)
def test_what_a_web_page_leaves_is_removed(raw, expected):
    assert repair(raw) == expected
    assert repair(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "I <3 red flags",
        "x < y and y > z",
        "<person> holding a flag",
        "flag [red] of example.org",
        "a [url",
        "AT&T tower",
        "the letters <b",
        "Ratio 1://2",
        "wwwhat a flag",
    ],
)
def test_what_only_looks_like_markup_is_kept(text):
    assert repair(text) == text

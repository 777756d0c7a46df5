from __future__ import annotations

import pytest

from rag_clip.corpus.clean import repair


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

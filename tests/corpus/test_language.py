from __future__ import annotations

import pyarrow as pa
import pytest

from rag_clip.corpus.language import language


def test_regions_of_a_wanted_language_and_unknown_languages_are_kept():
    records = pa.table({"text": list("abcdef"), "language": ["en", "EN-gb", "en_US", "de", None, "eng"]})
    kept = language(["en"])(records)
    assert kept.selected["text"].to_pylist() == ["a", "b", "c", "e"]
    assert (kept.dropped["text"].to_pylist(), kept.reason) == (["d", "f"], ("language", "language"))


def test_a_region_can_be_asked_for():
    records = pa.table({"text": list("abc"), "language": ["zh-Hant", "zh", "zh-Hans"]})
    assert language(["zh-hans"])(records).selected["text"].to_pylist() == ["c"]


def test_a_corpus_that_names_no_language_is_refused():
    with pytest.raises(
        ValueError, match="no column 'language': it says which captions are en, de; the columns are text"
    ):
        language(["en", "de"])(pa.table({"text": ["a"]}))

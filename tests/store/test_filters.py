"""Conditions of `where`, before an engine sees them."""

from __future__ import annotations

import pytest

from rag_clip.pipelines.images import load_image_schema
from rag_clip.store.filters import check_where

SCHEMA = load_image_schema()


def test_noise_is_filtered_by_a_range_open_at_either_end():
    for bounds in ((None, 0.5), (0.5, None), (0.25, 0.75), (0, 1), (0.5, 0.5)):
        assert check_where({"noise": bounds, "source": "web"}, SCHEMA) == {"noise": bounds, "source": ["web"]}
    assert check_where({"noise": [None, 0.5]}, SCHEMA) == {"noise": (None, 0.5)}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "value", [0.5, 1, True, None, "0.5", (0.5,), (0, 0.5, 1), ("0", "1"), (0, float("nan"))], ids=str
)
def test_what_is_no_range_of_numbers_is_refused(value: object):
    with pytest.raises(ValueError, match=r"noise is a number; filter by \(least, greatest\), either None for no bound"):
        check_where({"noise": value}, SCHEMA)  # type: ignore[dict-item]


def test_a_range_that_holds_no_number_is_refused():
    with pytest.raises(ValueError, match=r"at least 0.9 and at most 0.1, which no number is; swap them"):
        check_where({"noise": (0.9, 0.1)}, SCHEMA)


@pytest.mark.parametrize("value", [0.5, None, [1], (0, 1)], ids=str)
def test_what_is_no_text_of_a_keyword_is_refused(value: object):
    with pytest.raises(ValueError, match="source is a keyword; filter by a text or several"):
        check_where({"source": value}, SCHEMA)  # type: ignore[dict-item]

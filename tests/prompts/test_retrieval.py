"""The settings of retrieval: values out of range, and what the words of a recipe come to."""

from dataclasses import replace
from typing import Any

import pytest

from rag_clip.prompts.recipe import load_recipe
from rag_clip.prompts.retrieval import Retrieval
from rag_clip.prompts.retrieved import as_written, contains_phrase, contains_substring, contains_token, without_name

MEANINGS = (
    "by_meaning",
    "by_words",
    "of_images",
    "whole_names",
    "refuses_rivals",
    "separates",
    "decides_names",
    "knows_names",
    "weighs_classes",
    "may_drop_names",
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": "sound"}, "unknown modality 'sound'; known are text, image"),
        ({"modality": "image", "search": "lexical"}, "lexical search compares no image vectors; use dense or hybrid"),
        ({"contrast": "loud"}, "unknown contrast 'loud'; known are none, drop, weigh"),
        ({"trust": "blind"}, "unknown trust 'blind'; known are equal, evidence, known"),
        ({"names": "gone"}, "names in captions are kept or dropped, found 'gone'"),
        ({"weight": float("nan")}, "the weight of the captions is nan; give a number from 0 to 1"),
        ({"limit": 20, "candidates": 10}, "limit is 20 of 10 candidates"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        replace(Retrieval(), **change)


@pytest.mark.parametrize(
    ("settings", "meant"),
    [
        ({}, {"by_meaning", "by_words"}),
        ({"search": "dense", "modality": "image"}, {"by_meaning", "of_images"}),
        ({"search": "lexical", "keep": "phrase"}, {"by_words", "whole_names"}),
        ({"contrast": "drop", "names": "dropped"}, {"by_meaning", "by_words", "refuses_rivals", "may_drop_names"}),
        (
            {"contrast": "weigh", "trust": "evidence"},
            {"by_meaning", "by_words", "refuses_rivals", "separates", "weighs_classes"},
        ),
        ({"trust": "names"}, {"by_meaning", "by_words", "knows_names", "weighs_classes", "may_drop_names"}),
        ({"trust": "known"}, {"by_meaning", "by_words", "decides_names", "weighs_classes", "may_drop_names"}),
    ],
)
def test_what_the_words_of_a_recipe_mean(settings: dict[str, Any], meant: set[str]):
    retrieval = Retrieval(**settings)
    assert {name for name in MEANINGS if getattr(retrieval, name)} == meant


def test_filters_and_rewrites_are_functions():
    assert [Retrieval(keep=keep).passes for keep in ("token", "substring", "phrase")] == [
        contains_token,
        contains_substring,
        contains_phrase,
    ]
    assert [Retrieval(names=names).rewrite for names in ("kept", "dropped")] == [as_written, without_name]


def test_the_default_recipe_lets_captions_decide():
    retrieval = load_recipe("default").retrieved
    assert retrieval is not None
    assert (retrieval.decides_names, retrieval.separates, retrieval.whole_names) == (True, True, True)

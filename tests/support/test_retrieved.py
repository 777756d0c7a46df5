from __future__ import annotations

import numpy as np
import pytest
import torch

from inputs.candidates import candidates
from rag_clip.data import Hit, LabelSet, Prompts, PromptText
from rag_clip.support.retrieved import ImageSearch, Query, first_of_each, merge_hits, plan_queries, retrieved_support
from rag_clip.testing import check_support

LABELS = LabelSet(("red_fox", "blue jay", "ape"), synonyms=(("vixen", "fox"), (), ()))
PROMPTS = Prompts(
    LABELS,
    (
        (PromptText("a fox", 0.25), PromptText("red fur", 0.5, "context"), PromptText("a fox", 0.25)),
        (PromptText("a jay", 1.0),),
        tuple(PromptText(f"ape {number}", 1 / 20) for number in range(20)),
    ),
)


def hits(*names: str) -> list[Hit]:
    return [Hit(name, "", 0.0) for name in names]


def test_a_class_is_asked_for_by_its_embedding_its_heaviest_texts_or_its_names():
    assert plan_queries(PROMPTS, ImageSearch("class", 7)) == [Query(row, "", 7) for row in range(3)]
    assert plan_queries(PROMPTS, ImageSearch("captions", 8)) == [
        Query(0, "red fox", 3), Query(0, "vixen", 3), Query(0, "fox", 3), Query(1, "blue jay", 8), Query(2, "ape", 8),
    ]  # fmt: skip
    texts = plan_queries(PROMPTS, ImageSearch("texts", 25))
    assert texts[:3] == [Query(0, "red fur", 13), Query(0, "a fox", 13), Query(1, "a jay", 25)]
    assert texts[3:] == [Query(2, f"ape {number}", 3) for number in range(10)]


def test_what_several_queries_found_is_merged_by_best_rank():
    merged = merge_hits([hits("a", "b", "c"), hits("b", "d"), hits()])
    assert [hit.id for hit in merged] == ["a", "b", "d", "c"]
    assert merge_hits([]) == []


def test_each_class_has_its_first_images_and_relevance_is_what_is_not_noise():
    found = candidates([0, 0, 0, 2], torch.eye(4), noise=[0.25, np.nan, 0, 1])
    support = retrieved_support(LABELS, found, limit=2, provenance={"method": "retrieved"})
    check_support(support, LABELS)
    assert support.references == ("0", "1", "3")
    assert support.targets.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert support.relevance.tolist() == [0.75, 1, 0]
    assert (support.missing, support.provenance) == (("blue jay",), {"method": "retrieved"})


def test_the_first_of_each_group_keep_their_order():
    groups = np.array([2, 0, 2, 2, 0, 1])
    assert first_of_each(groups, 2).tolist() == [0, 1, 2, 4, 5]
    assert first_of_each(groups[:0], 2).tolist() == []


def test_settings_out_of_range_and_nothing_found_are_refused():
    with pytest.raises(ValueError, match="unknown search 'names'; known are class, texts, captions"):
        plan_queries(PROMPTS, ImageSearch("names", 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="candidates is 0 images"):
        plan_queries(PROMPTS, ImageSearch("class", 0))
    with pytest.raises(ValueError, match="the limit is 0"):
        retrieved_support(LABELS, candidates([0], torch.eye(1)), limit=0)
    with pytest.raises(ValueError, match="no image was found for any class"):
        retrieved_support(LABELS, candidates([], torch.zeros(0, 4)))

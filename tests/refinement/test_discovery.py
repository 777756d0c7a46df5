"""Names found for images in the captions nearest to them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import normalize

from rag_clip.refinement.discovery import NEAREST, Neighbours, Present, find_names

KINDS = ("red kite", "blue tit", "grey heron")
EVERY = {"red kite": 0.01, "blue tit": 0.01, "grey heron": 0.01, "garden": 0.3, "bird": 0.5}


def scene(images_a_kind: int = 6) -> tuple[torch.Tensor, Neighbours]:
    """Return images of three kinds, each near captions that name the kind and captions that name nothing."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.eye(8)[: len(KINDS)]
    texts, vectors = [], []
    for kind, axis in zip(KINDS, axes, strict=True):
        for number in range(NEAREST // 2):
            texts += [f"{number}: the {kind} in the garden", f"a bird, picture {number} {kind[:2]}"]
            vectors += [axis + 0.1 * torch.randn(8, generator=generator) for _ in range(2)]
    images = torch.cat([axis + 0.1 * torch.randn(images_a_kind, 8, generator=generator) for axis in axes])
    rows = np.repeat(np.arange(len(texts)).reshape(len(KINDS), NEAREST), images_a_kind, axis=0)
    return normalize(images, dim=1), Neighbours(rows, texts, normalize(torch.stack(vectors), dim=1))


def test_each_kind_gets_its_name_and_what_all_captions_say_gets_none():
    images, nearest = scene()
    found = find_names(images, nearest, EVERY, scale=20, least=2)
    assert {name.phrase for name in found.names} == set(KINDS)
    assert [name.images for name in found.names] == pytest.approx([6, 6, 6], abs=0.1)
    named = [found.names[place].phrase for place in found.assigned.tolist()]
    assert named == [kind for kind in KINDS for _ in range(6)]
    for name in found.names:
        first = KINDS.index(name.phrase) * 6
        assert sorted(name.best) == list(range(first, first + 6))
        assert all(name.phrase in nearest.texts[row] for row in name.captions)
        assert name.phrase not in name.also


def test_the_longest_of_nested_phrases_is_the_candidate():
    _, nearest = scene()
    candidates = nearest.candidates()
    assert set(KINDS) <= set(candidates)
    assert not {"red", "kite", "tit", "heron"} & set(candidates)


def test_a_name_that_explains_too_few_images_goes():
    images, nearest = scene()
    most = torch.arange(14)  # 6 kites, 6 tits and 2 herons
    some = Neighbours(nearest.rows[most], nearest.texts, nearest.vectors)
    kept = [find_names(images[most], some, EVERY, scale=20, least=least).names for least in (1.5, 3, 7, 100)]
    assert [len(names) for names in kept] == [3, 2, 1, 0]
    assert kept[2][0].images == pytest.approx(14)


def test_present_classes_keep_their_images_and_names_are_found_for_the_rest():
    images, nearest = scene()
    present = Present(torch.eye(8)[[1, 5]], [["blue tit", "blue tits"], ["zebra"]])
    found = find_names(images, nearest, {**EVERY, "zebra": 0.001}, scale=20, least=2, present=present)
    assert {name.phrase for name in found.names} == {"red kite", "grey heron"}
    assert found.assigned[6:12].tolist() == [0] * 6
    assert min(found.assigned[[*range(6), *range(12, 18)]].tolist()) >= 2
    assert sum(sum(name.takes.values()) for name in found.names) == 12


def test_rows_and_captions_in_another_order_give_the_same_names():
    images, nearest = scene()
    plain = find_names(images, nearest, EVERY, scale=20, least=2)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    back = list(reversed(range(len(nearest.texts))))
    place = np.argsort(back)
    other = Neighbours(place[nearest.rows[order]], [nearest.texts[row] for row in back], nearest.vectors[back])
    shuffled = find_names(images[order], other, EVERY, scale=20, least=2)
    assert {n.phrase: round(n.images, 4) for n in shuffled.names} == {n.phrase: round(n.images, 4) for n in plain.names}
    names = [[found.names[row].phrase for row in found.assigned.tolist()] for found in (plain, shuffled)]
    assert names[1] == [names[0][row] for row in order.tolist()]


def test_evidence_is_the_likelihood_ratio_of_the_captions():
    images, nearest = scene()
    votes = nearest.votes.filter(pl.col("gram") == "red kite")
    assert votes["share"].to_list() == [0.5] * 6
    lonely = find_names(
        images[:6], Neighbours(nearest.rows[:6], nearest.texts, nearest.vectors), {"red kite": 0.01}, scale=20, least=1
    )
    assert [(name.phrase, name.images) for name in lonely.names] == [("red kite", 6.0)]


def test_nothing_is_found_where_no_phrase_is_said_more_often_than_in_all_captions():
    images, nearest = scene()
    found = find_names(images, nearest, {"garden": 0.9, "bird": 0.9}, scale=20, least=2)
    assert found.names == ()


def test_what_is_said_of_an_image_decides_where_vectors_do_not():
    images, nearest = scene()
    alike = Neighbours(nearest.rows, nearest.texts, torch.ones_like(nearest.vectors) / 8**0.5)
    found = find_names(images, alike, EVERY, scale=20, least=2)
    assert {name.phrase: name.images for name in found.names} == pytest.approx(dict.fromkeys(KINDS, 6), abs=0.1)


def test_of_two_names_in_the_same_captions_one_gets_all_images():
    images, nearest = scene()
    texts = [text.replace("blue tit", "blue tit, named zorp") for text in nearest.texts]
    also = Neighbours(nearest.rows, texts, nearest.vectors)
    found = find_names(images, also, {**EVERY, "zorp": 0.01}, scale=20, least=2)
    assert sorted(name.images for name in found.names) == pytest.approx([6, 6, 6], abs=0.1)


def test_a_present_class_keeps_images_that_a_name_explains_hardly_better():
    images, nearest = scene()
    present = Present(torch.eye(8)[[1]], [["small songster"]])
    found = find_names(images, nearest, EVERY, scale=20, least=2, present=present)
    assert found.assigned[6:12].tolist() == [0] * 6
    assert {name.phrase for name in found.names} == {"red kite", "grey heron"}

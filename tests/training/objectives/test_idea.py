"""IDEA: numbers by hand, its limits, tags of captions and of images, second texts, and resuming."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from inputs.objectives import CAPTIONS, build, check_objective, check_resumed, equal_losses, pixels
from rag_clip.corpus.phrases import frequent_phrases
from rag_clip.training.batches import Examples
from rag_clip.training.objectives.clip import Clip
from rag_clip.training.objectives.idea import FLOOR, Idea, two_text_losses

TAGS = Idea(tags=("red", "blue", "boat", "old mill", "gate"), warm_up=0)


def test_it_keeps_the_contract() -> None:
    check_objective(TAGS)
    check_objective(Idea())
    check_objective(Idea(recognise=False))


def test_the_loss_of_two_texts_has_its_numbers_by_hand() -> None:
    """As published: all empty texts stay in the denominators, and directions are divided by n and 2n."""
    logits = torch.tensor([[1, 0, 0.5, -1], [0, 2, 0, 1]], dtype=torch.float64)
    positives = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0]], dtype=torch.float64)
    rows, columns = two_text_losses(logits, logits.T, positives)
    assert float(rows) / 2 == pytest.approx(1.243473, abs=1e-6)
    assert float(columns) / 4 == pytest.approx(0.228567, abs=1e-6)
    assert (float(rows) / 2 + float(columns) / 4) / 2 == pytest.approx(0.736020, abs=1e-6)


def test_without_recogniser_it_is_clip_bit_for_bit() -> None:
    assert equal_losses(Idea(recognise=False), Clip())


def test_without_second_texts_the_contrast_is_that_of_clip_bit_for_bit() -> None:
    """Texts that are not there are in no denominator."""
    towers, loss, batch = build(TAGS)
    _, clip, _ = build(Clip())
    images = towers.embed_images(batch)
    nothing = loss._contrast(batch, images, None, [], torch.zeros(6, dtype=torch.bool))
    assert torch.equal(nothing, clip(batch))


def test_a_second_text_is_a_positive_of_its_image() -> None:
    """By a formulation of its own, in NumPy in float64, with equal texts and images left out."""
    towers, loss, batch = build(TAGS)
    loss.found[:] = False
    loss.found[0, 1] = True  # a red boat is blue too
    loss.found[4, 0] = True
    loss.found[3, 0] = True
    texts = [*batch.texts]
    second = {0: "red, blue, boat", 3: "red, gate", 4: "red"}
    place = {int(row): number for number, row in enumerate(batch.rows)}
    owners = sorted(place[row] for row in second)
    texts += [second[int(batch.rows[number])] for number in owners]
    images = towers.embed_images(batch).detach().double().numpy()
    z = float(towers.scale.detach()) * images @ towers.embed_texts(texts).detach().double().numpy().T
    wanted = 0.0
    for number, owner in [*((k, k) for k in range(6)), *zip(range(6, 9), owners, strict=True)]:
        wanted -= z[owner, number] - np.log(np.exp(z[owner]).sum())
        wanted -= z[owner, number] - np.log(np.exp(z[:, number]).sum())
    contrast = wanted / 18
    said = np.array([[tag in text for tag in ("red", "blue", "boat", "old mill", "gate")] for text in CAPTIONS])
    said[5, 4] = False  # "gates" is not "gate"
    said[1, 2] = False
    weights = 6 / said.sum(0)
    found = said | loss.found.numpy()
    logits = loss.recogniser(towers.embed_patches(batch)).detach().double().numpy()
    tags = found[batch.rows.numpy()]
    told = (weights * -(tags * -np.log1p(np.exp(-logits)) + ~tags * -np.log1p(np.exp(logits)))).mean()
    assert loss(batch).item() == pytest.approx(np.log(contrast + FLOOR) + np.log(told + FLOOR), rel=1e-4)


def test_equal_second_texts_are_no_negatives() -> None:
    towers, loss, batch = build(TAGS)
    images = towers.embed_images(batch)
    more = torch.tensor([True, True, False, False, False, False])
    equal = loss._contrast(batch, images, None, ["red", "Red"], more)
    kept = replace(loss.settings, mask_equal=False)
    loss.settings = kept
    assert loss._contrast(batch, images, None, ["red", "red"], more).item() > equal.item()


def test_tags_of_captions_are_whole_words_in_order_of_any_caption() -> None:
    captions = [("a Red boat", "the boat, old"), ("an old mill",), ("mill, old", "redden")]
    examples = Examples(lambda rows: pixels(rows), captions * 2)
    _, loss, _ = build(TAGS, examples=examples)
    assert loss.tags == ("red", "boat", "old mill")
    assert loss.said(torch.tensor([0, 1, 2])).tolist() == [[True, True, False], [False, False, True], [False] * 3]
    assert loss.weights.tolist() == [3, 3, 3]


def test_tags_are_counted_from_captions_if_none_are_given() -> None:
    _, loss, _ = build(Idea(most=4))
    assert loss.tags == tuple(frequent_phrases([pl.Series(CAPTIONS)], most=4))
    assert loss.tags[0] == "mill"


def test_tags_recognised_before_an_epoch_are_added_to_those_of_captions() -> None:
    towers, loss, batch = build(TAGS)
    with torch.no_grad():
        loss.recogniser.weight.zero_()
        loss.recogniser.bias.copy_(torch.tensor([-9.0, 9, -9, -9, 0.4]))  # sigmoid(0.4) is 0.5987, below 0.6
    loss.begin_epoch(0, torch.tensor([1, 2]))
    assert loss.found.nonzero().tolist() == [[1, 1], [2, 1]]
    assert loss.facts == {"tags": 5.0, "tags recognised per image": pytest.approx(2 / 6)}
    assert torch.equal(towers.embed_whole(batch)[0], towers.embed_images(batch))


def test_the_tags_of_captions_alone_are_taught_in_the_first_epoch() -> None:
    _, loss, batch = build(replace(TAGS, warm_up=1))
    with torch.no_grad():
        loss.recogniser.bias.fill_(9)
    loss.begin_epoch(0, batch.rows)
    assert not loss.found.any()
    loss.begin_epoch(1, batch.rows)
    assert loss.found.all()


def test_a_killed_run_ends_with_the_same_weights() -> None:
    check_resumed(replace(TAGS, threshold=0.45))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="the threshold is 1"):
        Idea(threshold=1)
    with pytest.raises(ValueError, match="'a b c d' has 4 words"):
        Idea(tags=("a b c d",))
    with pytest.raises(ValueError, match="no caption has one of the tags"):
        build(Idea(tags=("zebra",)))

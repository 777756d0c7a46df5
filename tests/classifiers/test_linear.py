"""The linear form of classifiers: the same labels and probabilities, by a matrix and biases alone."""

from __future__ import annotations

import pytest
import torch

from inputs.supports import random_support, random_text, unit
from rag_clip.classifiers.floor import Floored
from rag_clip.classifiers.heads import HEADS, build_head
from rag_clip.classifiers.linear import LINEAR_HEADS, check_linear_head, linear_form
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet
from rag_clip.testing import ToyEncoder

CLOSED = [name for name in LINEAR_HEADS if name != "coop"]  # which trains texts; tested with the pipeline
TEXT = random_text(4, 8)
IMAGES = unit(torch.randn(20, 8, generator=torch.Generator().manual_seed(1)))
ENCODER = ToyEncoder(8)


def logits_of(classifier) -> torch.Tensor:
    form = linear_form(classifier, ENCODER)
    return form.scale * IMAGES @ form.weights.T + form.bias


def test_the_texts_alone_are_their_weights_scale_and_bias():
    text = ZeroShot(LabelSet(("a", "b")), torch.eye(2, 8), ENCODER.scale, bias=-3.0, trained_bias=True)
    form = linear_form(text, ENCODER)
    assert (form.weights.tolist(), form.bias.tolist(), form.scale) == (
        torch.eye(2, 8).tolist(),
        [-3, -3],
        ENCODER.scale,
    )
    assert (form.sigmoid, form.facts["probabilities"]) == (True, "sigmoid")


@pytest.mark.parametrize("head", CLOSED)
@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_a_linear_head_keeps_its_probabilities_whatever_the_floor_leaves_of_it(head, strength):
    whole = build_head(head, random_support(TEXT, [3, 3, 4, 5]), encoder=None)(TEXT)
    classifier = Floored(TEXT, whole, strength, "judged images", 15)
    expected = classifier(Features(IMAGES)).softmax(1)
    torch.testing.assert_close(logits_of(classifier).softmax(1), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(expected, TEXT(Features(IMAGES)).softmax(1), atol=1e-3)


def test_of_a_head_that_the_floor_leaves_out_the_texts_remain():
    ridge = build_head("ridge", random_support(TEXT, [2, 2, 2, 2]), encoder=None)(TEXT)
    torch.testing.assert_close(
        logits_of(Floored(TEXT, ridge, 0.0, "judged images", 8)), TEXT(Features(IMAGES)), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("head", ["gaussian", "linear_probe", "evidence"])
def test_a_head_that_decides_among_some_classes_only_is_refused_with_the_others(head):
    classifier = build_head(head, random_support(TEXT, [3, 0, 3, 0]), encoder=None)(TEXT)
    with pytest.raises(ValueError, match=r"linear where some have none \(class 1, class 3\); add images of these"):
        linear_form(classifier, ENCODER)


def test_priming_is_linear_without_images_of_some_classes():
    classifier = build_head("priming", random_support(TEXT, [3, 0, 3, 0]), encoder=None)(TEXT)
    torch.testing.assert_close(logits_of(classifier), classifier(Features(IMAGES)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("head", [name for name in HEADS if name not in LINEAR_HEADS])
def test_every_other_head_is_refused_by_name(head):
    with pytest.raises(ValueError, match=f"logits of the head {head} are not linear .* use priming, gaussian"):
        check_linear_head(head)

from dataclasses import replace

import numpy as np
import pytest
import torch
from closed_form_inputs import as_validation, check_contract, needs_features, random_support, random_text, real_shots

from rag_clip.classifiers.priming import priming
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support

TEXT = random_text(4, 24)
UNEVEN = random_support(TEXT, [8, 1, 0, 3], soft=True)


def test_one_image_of_two_classes_gives_the_weights_computed_by_hand():
    text = ZeroShot(LabelSet(("cat", "dog")), torch.eye(2, 3), 10.0)
    support = Support(
        text.labels,
        torch.tensor([[0.6, 0, 0.8], [0, 0.6, 0.8]]),
        torch.eye(2),
        torch.ones(2),
        ("shot",) * 2,
        ("a", "b"),
    )
    # gap = mean([.6 0 .8], [0 .6 .8]) - mean(texts) = [-.2 -.2 .8]; a = 1/2; cat: ([1 0 0] + [.8 .2 0]) / 2
    expected = torch.tensor([[0.9, 0.1, 0], [0.1, 0.9, 0]]) / 0.82**0.5
    assert torch.allclose(priming(text, support, text_count=1.0).weights, expected)
    published = torch.tensor([[0.96, 0, 0.08], [0, 0.96, 0.08]]) / (0.96**2 + 0.08**2) ** 0.5
    assert torch.allclose(priming(text, support, mode="published").weights, published)


def test_weights_equal_the_equation_in_float64():
    support = replace(UNEVEN, origin=("retrieved",) * 5 + ("shot",) * 7)
    found = priming(TEXT, support, text_count=3.0, discount=0.25).weights.numpy()
    counts = np.where(np.arange(12) < 5, 0.25, 1.0) * support.relevance.double().numpy()
    shares = support.targets.double().numpy() * counts[:, None]
    text, mass = TEXT.weights.double().numpy(), shares.sum(0)
    there = [row for row in range(4) if mass[row] > 0]
    centroids = {row: shares[:, row] @ support.features.double().numpy() for row in there}
    centroids = {row: value / np.linalg.norm(value) for row, value in centroids.items()}
    gap = np.mean([centroids[row] - text[row] for row in there], axis=0)
    for row in there:
        share = 3 / (3 + mass[row])
        mixed = share * text[row] + (1 - share) * (centroids[row] - gap)
        assert np.allclose(found[row], mixed / np.linalg.norm(mixed), atol=1e-6)


def test_a_class_without_images_keeps_its_text_and_so_do_all_as_the_text_counts_more():
    support = random_support(TEXT, [8, 1, 0, 3])
    assert torch.equal(priming(TEXT, support).weights[2], TEXT.weights[2])
    assert torch.allclose(priming(TEXT, support, text_count=1e9).weights, TEXT.weights, atol=1e-6)
    retrieved = replace(support, origin=("retrieved",) * len(support))
    assert torch.equal(priming(TEXT, retrieved, discount=0).weights, TEXT.weights)


def test_one_class_alone_keeps_its_text():
    text = random_text(1, 8)
    assert torch.allclose(priming(text, random_support(text, [3])).weights, text.weights, atol=1e-6)


def test_having_images_at_all_does_not_favour_a_class_as_in_the_published_form():
    text = random_text(2, 24)
    support, images = random_support(text, [30, 0]), Features(random_support(text, [0, 50], seed=1).features)
    assert torch.allclose(priming(text, support)(images), text(images), atol=1e-4)
    published = priming(text, support, mode="published")(images)
    assert torch.equal(published[:, 1], text(images)[:, 1])
    assert (published[:, 0] - text(images)[:, 0]).mean() > 0.5


def test_validation_chooses_how_much_the_text_counts():
    support = random_support(TEXT, [4, 4, 4, 4])
    swapped = replace(support, targets=support.targets[:, [1, 0, 3, 2]])
    trusting, doubting = priming(TEXT, support, text_count=1.0), priming(TEXT, swapped, text_count=64.0)
    held = as_validation(random_support(TEXT, [20] * 4, seed=5))
    assert torch.equal(priming(TEXT, swapped, validation=held).weights, doubting.weights)
    assert torch.equal(priming(TEXT, support, validation=as_validation(support)).weights, trusting.weights)


def test_it_meets_the_contract_of_a_head():
    check_contract(priming)


def test_counts_and_discounts_out_of_range_are_refused():
    with pytest.raises(ValueError, match="text_count is 0"):
        priming(TEXT, UNEVEN, text_count=0)
    with pytest.raises(ValueError, match=r"discount 1\.5"):
        priming(TEXT, UNEVEN, discount=1.5)


@needs_features
@pytest.mark.parametrize(("model", "accuracy"), [("ViTB32", 0.925), ("ViTL14", 0.98)])
def test_four_shots_lift_real_features(model: str, accuracy: float):
    text, support, images, labels = real_shots(model, 4, 0)
    assert (priming(text, support)(images).argmax(1) == labels).double().mean() >= accuracy

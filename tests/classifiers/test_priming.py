from dataclasses import replace

import numpy as np
import pytest
import torch

from inputs.folders import needs_features
from inputs.supports import (
    as_validation,
    check_contract,
    random_support,
    random_text,
    real_shots,
    unit,
)
from rag_clip.classifiers.priming import PrimingSettings
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support

TEXT = random_text(4, 24)
UNEVEN = random_support(TEXT, [8, 1, 0, 3], soft=True)


def test_one_image_of_two_classes_gives_the_weights_computed_by_hand():
    text = ZeroShot(LabelSet(("cat", "dog")), torch.eye(2, 3), 10.0)
    rows = torch.tensor([[0.6, 0, 0.8], [0, 0.6, 0.8]])
    support = Support(text.labels, rows, torch.eye(2), torch.ones(2), ("shot",) * 2, ("a", "b"))
    # no pairs, so c_k = mu_k; an image favours its class by 0.6 among texts, by 1 - 0.64 = 0.36 among images: r = 1
    # t = [.5 .5 0], c = [.3 .3 .8]: cat is t + (1 * [.5 -.5 0] + 1 * [.3 -.3 0]) / (1 + 1)
    assert torch.allclose(
        PrimingSettings(text_count=1.0).build(text, support).weights, torch.tensor([[0.9, 0.1, 0], [0.1, 0.9, 0]])
    )
    published = torch.tensor([[0.96, 0, 0.08], [0, 0.96, 0.08]]) / (0.96**2 + 0.08**2) ** 0.5
    assert torch.allclose(PrimingSettings(mode="published").build(text, support).weights, published)


def equation(text: ZeroShot, support: Support, counts: np.ndarray, text_count: float) -> np.ndarray:
    """The module's equation, a pair of images or classes at a time, in float64."""
    rows, texts = support.features.double().numpy(), text.weights.double().numpy()
    shares = support.shares.double().numpy() * counts[:, None]
    mass = shares.sum(0)
    there = [row for row in range(len(texts)) if mass[row] > 0]
    others = [(one, other) for one in there for other in there if one != other]
    means = {row: shares[:, row] @ rows / mass[row] for row in there}
    images = [(one, other) for one in range(len(rows)) for other in range(len(rows)) if one != other]
    weights = {row: [shares[one, row] * shares[other, row] for one, other in images] for row in there}
    cosines = {
        row: sum(weight * rows[one] @ rows[other] for weight, (one, other) in zip(weights[row], images, strict=True))
        for row in there
    }
    pooled = sum(cosines.values()) / sum(sum(weights[row]) for row in there)
    centroids = {row: means[row] / ((cosines[row] + pooled) / (sum(weights[row]) + 1)) ** 0.5 for row in there}
    in_text = np.mean([means[row] @ texts[row] for row in there]) - np.mean([means[a] @ texts[b] for a, b in others])
    in_images = pooled**0.5 * (1 - np.mean([centroids[a] @ centroids[b] for a, b in others]))
    ratio = in_text / in_images
    assert 0.01 < ratio < 1
    middle, centre = np.mean([texts[row] for row in there], 0), np.mean([centroids[row] for row in there], 0)
    found = texts.copy()
    for row in there:
        moved = text_count * (texts[row] - middle) + mass[row] * (centroids[row] - centre)
        found[row] = middle + moved / (text_count + mass[row] / ratio)
    return found


def test_weights_equal_the_equation_in_float64():
    text = replace(TEXT, weights=unit(TEXT.weights + torch.ones(24) * 0.3))
    support = replace(UNEVEN, origin=("retrieved",) * 5 + ("shot",) * 7)
    counts = np.where(np.arange(12) < 5, 0.25, 1.0) * support.relevance.double().numpy()
    found = PrimingSettings(text_count=3.0, discount=0.25).build(text, support)
    assert np.allclose(found.weights.numpy(), equation(text, support, counts, 3.0), atol=1e-6)


def test_a_class_without_images_keeps_its_text_and_so_do_all_as_the_text_counts_more():
    support = random_support(TEXT, [8, 1, 0, 3])
    assert torch.equal(PrimingSettings().build(TEXT, support).weights[2], TEXT.weights[2])
    assert torch.allclose(PrimingSettings(text_count=1e9).build(TEXT, support).weights, TEXT.weights, atol=1e-6)
    retrieved = replace(support, origin=("retrieved",) * len(support))
    assert torch.equal(PrimingSettings(discount=0).build(TEXT, retrieved).weights, TEXT.weights)


def test_one_class_alone_keeps_its_text():
    text = random_text(1, 8)
    assert torch.allclose(PrimingSettings().build(text, random_support(text, [3])).weights, text.weights, atol=1e-6)


def test_having_images_at_all_does_not_favour_a_class_as_in_the_published_form():
    text = random_text(2, 24)
    support, images = random_support(text, [30, 0]), Features(random_support(text, [0, 50], seed=1).features)
    assert torch.allclose(PrimingSettings().build(text, support)(images), text(images), atol=1e-4)
    published = PrimingSettings(mode="published").build(text, support)(images)
    assert torch.equal(published[:, 1], text(images)[:, 1])
    assert (published[:, 0] - text(images)[:, 0]).mean() > 0.5


def test_validation_chooses_how_much_the_text_counts():
    support = random_support(TEXT, [4, 4, 4, 4])
    swapped = replace(support, targets=support.shares[:, [1, 0, 3, 2]])
    trusting, doubting = (
        PrimingSettings(text_count=1.0).build(TEXT, support),
        PrimingSettings(text_count=64.0).build(TEXT, swapped),
    )
    held = as_validation(random_support(TEXT, [20] * 4, seed=5))
    assert torch.equal(PrimingSettings().build(TEXT, swapped, validation=held).weights, doubting.weights)
    assert torch.equal(
        PrimingSettings().build(TEXT, support, validation=as_validation(support)).weights, trusting.weights
    )


def test_it_meets_the_contract_of_a_head():
    check_contract(PrimingSettings().build)


def test_counts_and_discounts_out_of_range_are_refused():
    with pytest.raises(ValueError, match="text_count is 0"):
        PrimingSettings(text_count=0).build(TEXT, UNEVEN)
    with pytest.raises(ValueError, match=r"discount 1\.5"):
        PrimingSettings(discount=1.5).build(TEXT, UNEVEN)


@needs_features
@pytest.mark.parametrize(("model", "accuracy"), [("ViTB32", 0.925), ("ViTL14", 0.98)])
def test_four_shots_lift_real_features(model: str, accuracy: float):
    text, support, images, labels = real_shots(model, 4, 0)
    assert (PrimingSettings().build(text, support)(images).argmax(1) == labels).double().mean() >= accuracy

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from inputs.folders import needs_features
from inputs.supports import as_validation, check_contract, random_support, random_text, real_shots
from rag_clip.classifiers.linear_probe import LinearProbeSettings
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support
from rag_clip.evaluation.splits import Test

TEXT = random_text(4, 24, scale=40.0)
FIXED: dict[str, Any] = {"rate": 1e-3, "weight_decay": 1e-4}


def train_in_numpy(text: np.ndarray, images: np.ndarray, support: Support, rate: float, decay: float):
    """Train by the equation with all images in each step, in float64; return weights and biases."""
    standard = (images - images.mean(0)) / np.sqrt(images.var(0) + 1e-5)
    trust = (support.relevance / support.relevance.sum()).double().numpy()[:, None]
    weights, biases = text.copy(), np.zeros(len(text))
    speed, speed_biases = np.zeros_like(weights), np.zeros_like(biases)
    for _ in range(50):
        logits = standard @ weights.T + biases
        odds = np.exp(logits - logits.max(1, keepdims=True))
        slope = trust * (odds / odds.sum(1, keepdims=True) - support.shares.numpy())
        speed = 0.9 * speed + slope.T @ standard + decay * weights
        speed_biases = 0.9 * speed_biases + slope.sum(0) + decay * biases
        weights, biases = weights - rate * speed, biases - rate * speed_biases
    return weights, biases


def test_the_layer_is_that_of_gradient_descent_in_numpy():
    support = replace(random_support(TEXT, [3, 2, 4, 1]), relevance=torch.linspace(0.2, 1, 10))
    head = LinearProbeSettings(rate=0.05, weight_decay=0.02).build(TEXT, support)
    images = support.features.double().numpy()
    weights, biases = train_in_numpy(TEXT.weights.double().numpy(), images, support, 0.05, 0.02)
    queries = random_support(TEXT, [2, 2, 2, 2], seed=4).features
    standard = (queries.double().numpy() - images.mean(0)) / np.sqrt(images.var(0) + 1e-5)
    found, expected = head(Features(queries)).softmax(1), torch.from_numpy(standard @ weights.T + biases).softmax(1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-5)
    assert (head.tuned.by, head.parameters) == ("given", 4 * 25)


def test_without_training_to_speak_of_it_is_the_text_on_standardised_features():
    text = ZeroShot(LabelSet(("cat", "dog")), torch.eye(2), 2.0)
    support = Support(text.labels, torch.eye(2), torch.eye(2), torch.ones(2), ("shot",) * 2, ("a", "b"))
    head = LinearProbeSettings(rate=1e-12, weight_decay=1e-12).build(text, support)
    # mean 1/2 and deviation 1/2 on both axes: cat's feature (1, 0) becomes (1, -1), so the logits differ by 2
    logits = head(Features(torch.eye(2)))
    torch.testing.assert_close(logits[:, 0] - logits[:, 1], torch.tensor([2.0, -2.0]), rtol=1e-4, atol=1e-4)


def test_it_meets_the_contract_of_a_head():
    check_contract(lambda text, support: LinearProbeSettings(**FIXED).build(text, support))


def test_classes_without_images_keep_their_text_and_images_of_no_relevance_change_nothing():
    support = random_support(TEXT, [4, 3, 0, 2])
    queries = Features(random_support(TEXT, [2, 2, 2, 2], seed=9).features)
    head = LinearProbeSettings(**FIXED).build(TEXT, support)
    torch.testing.assert_close(head(queries)[:, 2], TEXT(queries)[:, 2])
    torch.testing.assert_close(head(queries).softmax(1)[:, 2], TEXT(queries).softmax(1)[:, 2])
    assert head.parameters == 3 * 25
    nothing = replace(support, relevance=torch.zeros(9))
    torch.testing.assert_close(LinearProbeSettings().build(TEXT, nothing)(queries), TEXT(queries))


def test_settings_are_chosen_by_shots_alone_and_not_by_images_that_were_found():
    support = random_support(TEXT, [4, 4, 4, 4])
    tuned = LinearProbeSettings(weight_decay=1e-4).build(TEXT, support).tuned
    assert (tuned.weight_decay, tuned.by) == (1e-4, "inner split")
    for given in (random_support(TEXT, [1, 1, 1, 1]), replace(support, origin=("retrieved",) * 16)):
        tuned = LinearProbeSettings().build(TEXT, given).tuned
        assert (tuned.rate, tuned.weight_decay, tuned.by) == (1e-3, 1e-6, "default")


def test_settings_that_diverge_are_never_chosen():
    head = LinearProbeSettings(rate=1e-2).build(TEXT, random_support(TEXT, [4, 4, 4, 4]))
    assert (head.tuned.rate, head.tuned.by) == (1e-2, "inner split")
    assert head.tuned.rate * head.tuned.weight_decay < 3.8
    assert bool(head.weights.isfinite().all())


def test_validation_images_judge_and_a_test_set_is_refused():
    support, held = random_support(TEXT, [2, 2, 2, 2]), as_validation(random_support(TEXT, [5, 5, 5, 5], seed=5))
    tuned = LinearProbeSettings(weight_decay=1e-4).build(TEXT, support, validation=held).tuned
    assert (tuned.by, tuned.weight_decay) == ("validation", 1e-4)
    test = Test(held.features, held.labels, held.targets)
    with pytest.raises(TypeError, match="labels of test images are only for scoring"):
        LinearProbeSettings().build(TEXT, support, validation=test)  # type: ignore[arg-type]


def test_random_weights_follow_the_seed():
    support = random_support(TEXT, [3, 3, 3, 3])
    one, same, other = (
        LinearProbeSettings(start="random", seed=seed, **FIXED).build(TEXT, support) for seed in (0, 0, 1)
    )
    assert torch.equal(one.weights, same.weights)
    assert not torch.allclose(one.weights, other.weights)


def test_numbers_that_are_not_above_zero_are_refused():
    with pytest.raises(ValueError, match=r"rate is 0\.0 and weight_decay None; both must be above zero"):
        LinearProbeSettings(rate=0.0).build(TEXT, random_support(TEXT, [1, 1, 1, 1]))


@needs_features
def test_five_shots_lift_real_features():
    right = []
    for seed in range(5):
        text, support, images, labels = real_shots("ViTB32", 5, seed)
        probe = LinearProbeSettings(weight_decay=1e-4).build(text, support)
        right.append(float((probe(images).argmax(1) == labels).double().mean()))
    assert sum(right) / len(right) >= 0.95
    assert min(right) >= 0.93

"""Images of several labels: how linear_probe learns from them, and that every other head refuses them."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from inputs.supports import as_validation, random_support, random_text
from rag_clip.classifiers.heads import HEADS, build_head
from rag_clip.classifiers.linear_probe import LinearProbeSettings
from rag_clip.classifiers.probe_training import spread_rows
from rag_clip.data import Features, SeveralLabels, Support, Validation
from rag_clip.metrics.ranking import mean_average_precision
from rag_clip.models.open_clip import load_encoder

TEXT = random_text(4, 24, scale=40.0)
ONES = replace(random_support(TEXT, [2, 2, 2, 2]), others={"second": torch.eye(8)})
PAIRS = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0], [0, 2], [1, 3]])
FIXED: dict[str, Any] = {"rate": 1e-2, "weight_decay": 1e-4}


def images_of_pairs(per_pair: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw images between two texts each; return unit rows and their labels, bool [n, 4]."""
    draw = torch.Generator().manual_seed(seed)
    pairs = PAIRS.repeat(per_pair, 1)
    noise = 0.3 * torch.randn(len(pairs), 24, generator=draw)
    rows = torch.nn.functional.normalize(TEXT.weights[pairs].sum(1) + noise, dim=1)
    return rows, torch.zeros(len(pairs), 4, dtype=torch.bool).scatter_(1, pairs, True)


def several(per_pair: int, seed: int = 0) -> Support:
    rows, labels = images_of_pairs(per_pair, seed)
    names = tuple(map(str, range(len(rows))))
    return Support(TEXT.labels, rows, SeveralLabels(labels), torch.ones(len(rows)), ("shot",) * len(rows), names)


def test_the_layer_is_that_of_gradient_descent_on_binary_cross_entropy():
    support = several(2)
    head = LinearProbeSettings(**FIXED).build(TEXT, support)
    images = support.features.double()
    standard = (images - images.mean(0)) / (images.var(0, correction=0) + 1e-5).sqrt()
    weights, biases = TEXT.weights.double(), torch.zeros(4).double()
    speed, speed_biases = torch.zeros_like(weights), torch.zeros_like(biases)
    for _ in range(50):
        slope = ((standard @ weights.T + biases).sigmoid() - support.shares.double()) / (len(images) * 4)
        speed = 0.9 * speed + slope.T @ standard + 1e-4 * weights
        speed_biases = 0.9 * speed_biases + slope.sum(0) + 1e-4 * biases
        weights, biases = weights - 1e-2 * speed, biases - 1e-2 * speed_biases
    expected = standard @ weights.T + biases
    torch.testing.assert_close(head(Features(support.features)).double(), expected, rtol=1e-3, atol=1e-4)
    assert (head.several, head.parameters) == (True, 4 * 25)


def test_settings_are_chosen_by_average_precision_on_the_inner_split_or_validation():
    rows, labels = images_of_pairs(20, seed=9)
    head = LinearProbeSettings(weight_decay=1e-4).build(TEXT, several(4))
    assert head.tuned is not None
    assert head.tuned.accuracy is not None
    assert (head.tuned.by, 0.9 < head.tuned.accuracy <= 1.0) == ("inner split", True)
    assert mean_average_precision(head(Features(rows)), labels, eleven_points=True) > 0.8
    judged = LinearProbeSettings(weight_decay=1e-4).build(
        TEXT, several(2), validation=Validation(Features(rows), TEXT.labels, SeveralLabels(labels))
    )
    assert judged.tuned.by == "validation"


def test_classes_without_images_are_ranked_by_the_probability_of_their_text():
    support = several(3)
    kept = ~support.shares[:, 3]
    fewer = Support(
        TEXT.labels, support.features[kept], support.targets[kept], torch.ones(9), ("shot",) * 9, ("x",) * 9
    )
    rows, _ = images_of_pairs(2, seed=4)
    head = LinearProbeSettings(**FIXED).build(TEXT, fewer)
    torch.testing.assert_close(head(Features(rows))[:, 3], TEXT(Features(rows)).log_softmax(1)[:, 3])
    assert head.parameters == 3 * 25


@pytest.mark.parametrize("name", sorted(HEADS.keys() - {"linear_probe"}))
def test_other_heads_refuse_images_of_several_labels(name: str):
    labels = ONES.shares.bool() | ONES.shares.bool().roll(1, 0)
    build = build_head(name, replace(ONES, targets=SeveralLabels(labels)), encoder=load_encoder("demo"))
    with pytest.raises(
        ValueError, match=r"the support set has images with several labels.*linear_probe learns from several"
    ):
        build(TEXT)


@pytest.mark.parametrize("name", sorted(HEADS))
def test_no_head_that_learns_one_label_is_judged_by_several(name: str):
    held = as_validation(random_support(TEXT, [1, 1, 1, 1]))
    features = replace(held.features, others={"second": torch.eye(8)[:4]})
    judges = Validation(features, TEXT.labels, SeveralLabels(torch.ones(4, 4, dtype=torch.bool)))
    build = build_head(name, ONES, encoder=load_encoder("demo"), validation=judges)
    with pytest.raises(ValueError, match="the validation set has images with several labels"):
        build(TEXT)


def test_the_search_sees_a_spread_of_the_images_where_a_class_has_many():
    targets = torch.nn.functional.one_hot(torch.tensor([0] * 6 + [1] * 2)).float()
    assert spread_rows(targets, at_most=3).nonzero()[:, 0].tolist() == [0, 2, 5, 6, 7]
    assert bool(spread_rows(targets, at_most=6).all())

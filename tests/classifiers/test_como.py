"""CoMo against its equation, its limits, and what a second encoder is worth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from inputs.supports import random_support, random_text, unit
from rag_clip.classifiers.como import CoMo, CoMoFSettings, CoMoSettings, blend
from rag_clip.classifiers.evidence import one_label
from rag_clip.classifiers.tip_adapter import TipAdapterSettings
from rag_clip.classifiers.zero_shot import ZeroShot, zero_shot
from rag_clip.data import Features, LabelSet, Prompts, Support, Validation
from rag_clip.prompts.templates import template_prompts
from rag_clip.protocols import Classifier
from rag_clip.testing import ToyEncoder, check_head
from rag_clip.training.loop import Schedule

CLASSES, SECOND = 5, "second"
TEXT = random_text(CLASSES, 24)
CENTRES = torch.randn(CLASSES, 12, generator=torch.Generator().manual_seed(3))


def second_view(classes: torch.Tensor, seed: int, noise: float = 0.5) -> torch.Tensor:
    """What the second encoder, of width 12, sees of images of these classes."""
    draw = torch.Generator().manual_seed(seed)
    return unit(CENTRES[classes] + noise * torch.randn(len(classes), 12, generator=draw))


def two_views(counts: list[int], *, soft: bool = False, seed: int = 0, noise: float = 0.5) -> Support:
    support = random_support(TEXT, counts, soft=soft, seed=seed)
    return replace(support, others={SECOND: second_view(support.shares.argmax(1), seed + 1, noise)})


QUERIES_OF = two_views([4] * CLASSES, seed=5)
QUERIES = Features(QUERIES_OF.features, others=QUERIES_OF.others)
TRUTH = QUERIES_OF.shares.argmax(1)


def equation(support: Support, alpha: float, beta: float, sharpness: float) -> np.ndarray:
    """The equation in float64, a query at a time; every class has equally many images."""
    weights = TEXT.weights.double().numpy()
    targets = (support.shares * support.relevance[:, None]).double().numpy()

    def standard(values: np.ndarray) -> np.ndarray:
        return (values - values.mean()) / values.std(ddof=1)

    rows = []
    for row in range(len(QUERIES.pooled)):
        text = TEXT.scale * weights @ QUERIES.pooled[row].double().numpy()
        views = [(QUERIES.pooled, support.features), (QUERIES.others[SECOND], support.others[SECOND])]
        votes = [
            standard(np.exp(-beta * (1 - keys.double().numpy() @ query[row].double().numpy())) @ targets)
            for query, keys in views
        ]
        worth = np.exp([sharpness * np.corrcoef(vote, text)[0, 1] for vote in votes])
        rows.append(
            text + TEXT.scale / 100 * alpha * sum(w * v for w, v in zip(worth / worth.sum(), votes, strict=True))
        )
    return np.stack(rows)


@pytest.mark.parametrize(
    ("settings", "sharpness"),
    [({}, 1), ({"mode": "published"}, CLASSES - 1), ({"sharpness": 10.0}, 10), ({"sharpness": 0.0}, 0)],
)
def test_logits_equal_the_equation_in_float64(settings: dict[str, Any], sharpness: float) -> None:
    support = replace(two_views([3] * CLASSES), relevance=torch.linspace(0.2, 1, 15))
    found = CoMoSettings(alpha=7, beta=3, **settings).build(TEXT, support)(QUERIES).double().numpy()
    np.testing.assert_allclose(found, equation(support, 7, 3, sharpness), atol=2e-5, rtol=0)


def test_the_blend_of_two_encoders_is_the_one_computed_by_hand() -> None:
    text = torch.tensor([[3.0, 1.0, 2.0]])  # standardised: 1, -1, 0
    agrees, turned = torch.tensor([[0.9, 0.1, 0.5]]), torch.tensor([[0.1, 0.9, 0.5]])  # correlations 1 and -1
    # dot products 2 and -2: weights 1 / (1 + e^-4) = 0.982014 and 0.017986, whose difference is 0.964028
    by_dot = blend(text, [agrees, turned], sharpness=2.0)
    torch.testing.assert_close(by_dot, torch.tensor([[0.964028, -0.964028, 0.0]]), atol=1e-5, rtol=0)
    # correlations themselves: 1 / (1 + e^-2) = 0.880797, difference 0.761594
    by_correlation = blend(text, [agrees, turned], sharpness=1.0)
    torch.testing.assert_close(by_correlation, torch.tensor([[0.761594, -0.761594, 0.0]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("classes", [10, 1000])
def test_the_dot_product_of_the_paper_switches_with_the_number_of_classes(classes: int) -> None:
    draw = torch.Generator().manual_seed(0)
    text = torch.randn(1, classes, generator=draw, dtype=torch.float64)
    noise = torch.linalg.qr(
        torch.stack([torch.ones(classes), text[0], torch.randn(classes, generator=draw)], 1).double()
    )
    standard = (text - text.mean()) / text.std()
    across = noise[0][:, 2] * (classes - 1) ** 0.5

    def with_correlation(value: float) -> torch.Tensor:
        return value * standard + (1 - value**2) ** 0.5 * across

    better, worse = with_correlation(0.51), with_correlation(0.50)
    found = blend(text, [better, worse], sharpness=classes - 1)
    share = ((found - worse) @ (better - worse).T) / (better - worse).square().sum()
    torch.testing.assert_close(share.item(), {10: 0.5225, 1000: 0.999954}[classes], atol=1e-4, rtol=0)


def test_without_alpha_it_is_zero_shot() -> None:
    head = CoMoSettings(alpha=0, beta=4).build(TEXT, two_views([3, 1, 2, 4, 2]))
    torch.testing.assert_close(head(QUERIES), TEXT(QUERIES), atol=0, rtol=0)


def test_two_encoders_that_see_the_same_are_one_cache_standardised() -> None:
    support = random_support(TEXT, [3] * CLASSES)
    same = replace(support, others={SECOND: support.features})
    images = Features(QUERIES.pooled, others={SECOND: QUERIES.pooled})
    votes = TipAdapterSettings(alpha=100 / TEXT.scale, beta=4).build(TEXT, support)(images) - TEXT(images)
    expected = TEXT(images) + TEXT.scale / 100 * 6 * (votes - votes.mean(1, keepdim=True)) / votes.std(1, keepdim=True)
    torch.testing.assert_close(CoMoSettings(alpha=6, beta=4).build(TEXT, same)(images), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", [CoMoSettings, CoMoFSettings])
@pytest.mark.parametrize("mode", ["balanced", "published"])
@pytest.mark.parametrize("given", [{}, {"alpha": 5.0, "beta": 3.0, "sharpness": 1.0}])
def test_it_keeps_the_contract_of_a_head(kind: type, mode: str, given: dict[str, float]) -> None:
    encoder = ToyEncoder()
    prompts = template_prompts(LabelSet(("red", "green", "blue", "yellow", "white")))
    support = two_views([5, 2, 0, 1, 3], soft=mode == "balanced")
    support = replace(support, labels=prompts.labels, features=unit(support.features @ torch.ones(24, 32).tril()))
    images = Features(unit(QUERIES.pooled @ torch.ones(24, 32).tril()), others=QUERIES.others)

    def head(moved: Prompts, held: Support) -> Classifier:
        return kind(mode=mode, **given).build(zero_shot(moved, encoder), held)

    check_head(head, prompts, support, images)


@pytest.mark.parametrize("kind", [CoMoSettings, CoMoFSettings])
def test_a_class_without_images_keeps_its_text_logit(kind: type) -> None:
    head = kind(alpha=5, beta=4).build(TEXT, two_views([3, 3, 0, 3, 3]))
    torch.testing.assert_close(head(QUERIES)[:, 2], TEXT(QUERIES)[:, 2], atol=1e-5, rtol=0)
    published = CoMoSettings(alpha=5, beta=4, mode="published").build(TEXT, two_views([3, 3, 0, 3, 3]))
    assert bool((published(QUERIES)[:, 2] < TEXT(QUERIES)[:, 2] - 0.1).all())
    found, text = (each(QUERIES).softmax(1)[:, 2] for each in (head, TEXT))
    torch.testing.assert_close(found, text)  # the images decide among the other classes alone


@pytest.mark.parametrize("kind", [CoMoSettings, CoMoFSettings])
def test_one_class_or_support_of_no_relevance_leaves_the_text_alone(kind: type) -> None:
    labels = LabelSet(("only",))
    text = ZeroShot(labels, TEXT.weights[:1], 20.0)
    held = two_views([3] + [0] * (CLASSES - 1))
    one = replace(held, labels=labels, targets=held.shares[:, :1])
    torch.testing.assert_close(kind().build(text, one)(QUERIES), text(QUERIES), atol=1e-6, rtol=0)
    ignored = replace(two_views([2] * CLASSES), relevance=torch.zeros(2 * CLASSES))
    torch.testing.assert_close(kind(alpha=5, beta=4).build(TEXT, ignored)(QUERIES), TEXT(QUERIES), atol=1e-5, rtol=0)


def test_another_scale_multiplies_every_logit() -> None:
    support = two_views([3, 1, 2, 4, 2])
    low = CoMoSettings(alpha=5, beta=4).build(TEXT, support)(QUERIES)
    high = CoMoSettings(alpha=5, beta=4).build(replace(TEXT, scale=5 * TEXT.scale), support)(QUERIES)
    torch.testing.assert_close(high, 5 * low, atol=1e-4, rtol=0)


def right(head: CoMo) -> int:
    return int((head(QUERIES).argmax(1) == TRUTH).sum())


def test_a_good_second_encoder_repairs_a_poor_text_classifier() -> None:
    poor = replace(
        TEXT, weights=unit(TEXT.weights + 0.5 * torch.randn(CLASSES, 24, generator=torch.Generator().manual_seed(1)))
    )
    support = two_views([4] * CLASSES, noise=0.2)
    text, cache = (
        int((head(QUERIES).argmax(1) == TRUTH).sum()) for head in (poor, TipAdapterSettings().build(poor, support))
    )
    assert right(CoMoSettings().build(poor, support)) > max(text, cache)


def test_settings_come_from_validation_else_from_shots_left_out_else_by_default() -> None:
    support = two_views([4] * CLASSES)
    held = two_views([3] * CLASSES, seed=9)
    validation = Validation(Features(held.features, others=held.others), TEXT.labels, held.shares.argmax(1))
    chosen, shots = CoMoSettings().build(TEXT, support, validation=validation), CoMoSettings().build(TEXT, support)
    drawn = CoMoSettings().build(TEXT, replace(support, origin=("retrieved",) * len(support)))
    assert [head.choice.by for head in (chosen, shots, drawn)] == ["validation", "leave-one-out", "default"]
    assert (drawn.choice.alpha, drawn.choice.beta) == (0.6, 1.0)
    assert CoMoSettings(alpha=2.0).build(TEXT, support).choice.alpha == 2.0
    accuracy = float(
        (chosen(validation.features).argmax(1) == one_label("validation set", validation.targets)).float().mean()
    )
    assert chosen.choice.accuracy == pytest.approx(accuracy)


def test_leave_one_out_asks_both_encoders_about_the_image_that_was_left_out() -> None:
    support = two_views([3] * CLASSES)
    chosen = CoMoSettings().build(TEXT, support).choice
    rest = [[row for row in range(len(support)) if row != left] for left in range(len(support))]
    found = 0
    for left, rows in enumerate(rest):
        others = {SECOND: support.others[SECOND][rows]}
        fewer = replace(
            support,
            features=support.features[rows],
            targets=support.targets[rows],
            relevance=support.relevance[rows],
            origin=support.origin[1:],
            references=support.references[1:],
            others=others,
        )
        head = CoMoSettings(alpha=chosen.alpha, beta=chosen.beta).build(TEXT, fewer)
        image = Features(support.features[left : left + 1], others={SECOND: support.others[SECOND][left : left + 1]})
        found += int(head(image).argmax() == support.shares[left].argmax())
    assert chosen.accuracy == pytest.approx(found / len(support))


def test_training_moves_the_keys_of_both_encoders_and_lowers_the_loss() -> None:
    support = two_views([4] * CLASSES)
    before = support.others[SECOND].clone()
    settings: dict[str, Any] = {"alpha": 5.0, "beta": 4.0}
    plain, trained = (
        CoMoSettings(**settings).build(TEXT, support),
        CoMoFSettings(schedule=Schedule(epochs=40, rate=1e-2), **settings).build(TEXT, support),
    )
    losses = [torch.nn.functional.cross_entropy(head(QUERIES), TRUTH).item() for head in (plain, trained)]
    assert losses[1] < losses[0]
    width = TEXT.weights.shape[1] + support.others[SECOND].shape[1]
    assert (plain.parameters, trained.parameters) == (0, len(support) * width)
    assert all(not torch.equal(plain.caches[name].keys, trained.caches[name].keys) for name in ("", SECOND))
    assert not any(cache.keys.requires_grad for cache in trained.caches.values())
    assert torch.equal(support.others[SECOND], before)


def test_features_that_a_further_encoder_did_not_give_are_asked_for() -> None:
    support = two_views([2] * CLASSES)
    with pytest.raises(ValueError, match="needs support features by a further encoder, and found none"):
        CoMoSettings().build(TEXT, replace(support, others={}))
    with pytest.raises(ValueError, match="needs features of the images by second, and found none beside the main"):
        CoMoSettings(alpha=1, beta=1).build(TEXT, support)(Features(QUERIES.pooled))
    bare = Validation(Features(QUERIES.pooled), TEXT.labels, TRUTH)
    with pytest.raises(ValueError, match="needs features of the images by second"):
        CoMoSettings().build(TEXT, support, validation=bare)
    broken = {SECOND: support.others[SECOND].clone().fill_(float("nan"))}
    with pytest.raises(ValueError, match="support features by 'second' are not finite"):
        CoMoSettings().build(TEXT, replace(support, others=broken))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_setting_is_not_preferred_for_its_confidence(seed: int) -> None:
    support = two_views([4] * CLASSES, seed=seed, noise=2.0)
    chosen = [CoMoSettings().build(replace(TEXT, scale=scale), support).choice for scale in (60.0, 600.0)]
    assert chosen[0] == chosen[1]
    assert chosen[0].by == "leave-one-out"

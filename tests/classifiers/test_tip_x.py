from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize, one_hot

from rag_clip.classifiers.cache import Mode
from rag_clip.classifiers.tip_adapter import TipAdapterSettings
from rag_clip.classifiers.tip_x import TipX, TipXSettings
from rag_clip.classifiers.zero_shot import ZeroShot, zero_shot
from rag_clip.data import Features, LabelSet, Prompts, Support
from rag_clip.prompts.templates import template_prompts
from rag_clip.testing import ToyEncoder, check_head

CLASSES, WIDTH = 20, 64
LABELS = LabelSet(tuple(f"class {index}" for index in range(CLASSES)))
DRAW = torch.Generator().manual_seed(4)
CENTRES = normalize(torch.randn(CLASSES, WIDTH, generator=DRAW), dim=-1)
COMMON = normalize(torch.randn(WIDTH, generator=DRAW), dim=-1)


def images(targets: torch.Tensor) -> torch.Tensor:
    noise = 0.1 * torch.randn(len(targets), WIDTH, generator=DRAW)
    return normalize(CENTRES[targets] + 2 * COMMON + noise, dim=-1)


def support_of(targets: torch.Tensor) -> Support:
    names = tuple(f"image {row}" for row in range(len(targets)))
    votes = one_hot(targets, CLASSES).float()
    return Support(LABELS, images(targets), votes, torch.ones(len(targets)), ("shot",) * len(targets), names)


BALANCED = support_of(torch.arange(CLASSES).repeat_interleave(3))
UNEVEN = support_of(
    torch.cat([torch.arange(CLASSES), torch.zeros(9, dtype=torch.int64), torch.ones(4, dtype=torch.int64)])
)
TEXT = ZeroShot(LABELS, normalize(CENTRES - COMMON + 0.1 * torch.randn(CLASSES, WIDTH, generator=DRAW), dim=-1), 100.0)
QUERIES = Features(images(torch.arange(103) % CLASSES))
SETTINGS: dict[str, Any] = {"alpha": 3.0, "beta": 6.0, "gamma": 8.0}


def divergence_loop(queries: torch.Tensor, keys: torch.Tensor, text: ZeroShot) -> np.ndarray:
    """KL of softmax signatures, a pair and a class at a time in float64."""
    weights = text.weights.double().numpy()

    def signature(feature: np.ndarray) -> np.ndarray:
        sharp = np.exp(weights @ feature / 0.5 * text.scale / 100)
        return sharp / sharp.sum()

    q = [signature(row) for row in queries.double().numpy()]
    s = [signature(row) for row in keys.double().numpy()]
    return np.array([[sum(a * np.log(a / b) for a, b in zip(x, y, strict=True)) for y in s] for x in q])


def equation(text: ZeroShot, support: Support, *, published: bool) -> tuple[np.ndarray, np.ndarray]:
    """psi [n, m] and the logits [n, c]."""
    f, keys = QUERIES.pooled.double().numpy(), support.features.double().numpy()
    cosines, divergences = f @ keys.T, divergence_loop(QUERIES.pooled, support.features, text)
    votes = support.shares.double().numpy()
    if published:
        ranges = cosines, divergences
    else:
        apart = ~np.eye(len(keys), dtype=bool)
        ranges = (keys @ keys.T)[apart], divergence_loop(support.features, support.features, text)[apart]
        votes = votes * votes.sum(0).mean() / votes.sum(0)
    low, high, least, largest = (edge(matrix) for matrix in ranges for edge in (np.min, np.max))
    unit = (divergences - least) / (largest - least)
    psi = -(unit * (high - low) + low) if published else (1 - unit) * (high - low) + low
    affinity = SETTINGS["alpha"] * np.exp(-SETTINGS["beta"] * (1 - cosines)) + SETTINGS["gamma"] * psi
    return psi, text.scale * f @ text.weights.double().numpy().T + text.scale / 100 * affinity @ votes


def test_the_divergence_of_two_signatures_is_that_computed_by_hand():
    labels = LabelSet(("a", "b"))
    support = Support(labels, torch.eye(2), torch.eye(2), torch.ones(2), ("shot",) * 2, ("x", "y"))
    head = TipXSettings(**SETTINGS).build(ZeroShot(labels, torch.eye(2), 100.0), support)
    # q = softmax(1.2, 1.6) = (0.401312, 0.598688), S of (1, 0) = softmax(2, 0) = (0.880797, 0.119203)
    # 0.401312 ln(0.401312 / 0.880797) + 0.598688 ln(0.598688 / 0.119203) = -0.315467 + 0.966230
    found = head.divergences(torch.tensor([[60.0, 80.0]]), torch.tensor([[100.0, 0.0], [60.0, 80.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.650763, 0.0]]), atol=1e-6, rtol=0)


def test_divergences_equal_a_float64_loop_to_1e_5_of_their_range():
    head = TipXSettings(**SETTINGS).build(TEXT, BALANCED)
    expected = divergence_loop(QUERIES.pooled, BALANCED.features, TEXT)
    found = head.divergences(TEXT(QUERIES), TEXT(Features(BALANCED.features))).double().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.ptp(expected), rtol=0)


@pytest.mark.parametrize("mode", ["balanced", "published"])
@pytest.mark.parametrize("support", [BALANCED, UNEVEN], ids=["equal counts", "uneven counts"])
@pytest.mark.parametrize("scale", [100.0, 25.0])
def test_affinities_and_logits_of_all_103_queries_equal_a_float64_loop_to_1e_5(mode, support, scale):
    text = replace(TEXT, scale=scale)
    head = TipXSettings(mode=mode, **SETTINGS).build(text, support)
    psi, logits = equation(text, support, published=mode == "published")
    cosines = head.cache.cosines(QUERIES.pooled)
    np.testing.assert_allclose(head.text_affinities(text(QUERIES), cosines).numpy(), psi, atol=1e-5, rtol=0)
    np.testing.assert_allclose(head(QUERIES).numpy(), logits, atol=1e-5 * np.abs(logits).max(), rtol=0)


@pytest.mark.parametrize("mode", ["balanced", "published"])
def test_votes_of_the_texts_per_image_equal_a_float64_loop_to_1e_6(mode):
    head = TipXSettings(mode=mode, **SETTINGS).build(TEXT, UNEVEN)
    psi, _ = equation(TEXT, UNEVEN, published=mode == "published")
    found, votes = text_share(head).double().numpy(), head.cache.votes.double().numpy()
    np.testing.assert_allclose(found / votes.sum(0), psi @ votes / votes.sum(0), atol=1e-6, rtol=0)


def test_without_gamma_it_is_tip_adapter_and_without_both_it_is_zero_shot():
    head = TipXSettings(alpha=3, beta=6, gamma=0).build(TEXT, UNEVEN)
    torch.testing.assert_close(
        head(QUERIES), TipAdapterSettings(alpha=3, beta=6).build(TEXT, UNEVEN)(QUERIES), atol=0, rtol=0
    )
    nothing = TipXSettings(alpha=0, beta=6, gamma=0).build(TEXT, UNEVEN)
    torch.testing.assert_close(nothing(QUERIES), TEXT(QUERIES), atol=0, rtol=0)


def test_equal_counts_make_both_modes_differ_by_a_constant_where_their_ranges_agree():
    support = replace(BALANCED, features=QUERIES.pooled[: len(BALANCED)])
    published = TipXSettings(mode="published", **SETTINGS).build(TEXT, support)
    psi = published.text_affinities(TEXT(QUERIES), published.cache.cosines(QUERIES.pooled))
    divergences = published.divergences(TEXT(QUERIES), TEXT(Features(support.features)))
    a, b = 0.5, float((psi.max() - psi.min()) / divergences.max())
    balanced = replace(TipXSettings(**SETTINGS).build(TEXT, support), psi=(a, b))
    difference = balanced(QUERIES) - published(QUERIES)
    torch.testing.assert_close(difference, difference[:, :1].expand(-1, CLASSES), atol=2e-3, rtol=0)


def text_share(head: TipX) -> torch.Tensor:
    return head.text_votes(head.zero_shot(QUERIES), head.cache.cosines(QUERIES.pooled))


def test_small_classes_gain_nothing_but_as_published():
    settings: dict[str, Any] = {"alpha": 0.0, "beta": 1.0, "gamma": 1.0}
    fair = text_share(TipXSettings(**settings).build(TEXT, UNEVEN)).mean(0)
    published = text_share(TipXSettings(mode="published", **settings).build(TEXT, UNEVEN)).mean(0)
    assert float(fair.max() - fair.min()) < 0.5 * float(fair.mean())
    assert float(published[0]) < 5 * float(published[2:].min())  # ten images say ten times that they are far away


def test_a_class_without_images_keeps_its_text_logit():
    rows = [row for row in range(len(BALANCED)) if not BALANCED.shares[row, 7]]
    support = Support(
        LABELS,
        BALANCED.features[rows],
        BALANCED.targets[rows],
        BALANCED.relevance[rows],
        BALANCED.origin[: len(rows)],
        BALANCED.references[: len(rows)],
    )
    logits = TipXSettings(**SETTINGS).build(TEXT, support)(QUERIES)
    assert torch.equal(logits[:, 7], TEXT(QUERIES)[:, 7])
    held = [row for row in range(len(LABELS)) if row != 7]
    together = [answer[:, held].logsumexp(1) for answer in (logits, TEXT(QUERIES))]
    torch.testing.assert_close(*together, atol=1e-3, rtol=0)


def test_published_answers_depend_on_the_batch_and_balanced_ones_do_not():
    part = Features(QUERIES.pooled[:10])
    modes: dict[Mode, bool] = {"published": False, "balanced": True}
    for mode, same in modes.items():
        head = TipXSettings(mode=mode, **SETTINGS).build(TEXT, BALANCED)
        assert torch.allclose(head(part), head(QUERIES)[:10], atol=1e-3, rtol=0) is same


@pytest.mark.parametrize("mode", ["balanced", "published"])
def test_one_class_and_one_image_work(mode):
    labels = LabelSet(("only",))
    text = ZeroShot(labels, CENTRES[:1], 100.0)
    for count in (1, 3):
        support = Support(
            labels, CENTRES[:count], torch.ones(count, 1), torch.ones(count), ("shot",) * count, ("x",) * count
        )
        assert TipXSettings(mode=mode).build(text, support)(QUERIES).isfinite().all()


@pytest.mark.parametrize("settings", [SETTINGS, {}])
def test_it_keeps_the_contract_of_a_head(settings):
    labels = LabelSet(("red", "green", "blue", "red blue"))
    mix = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1]]).repeat_interleave(3, 0)[:, :, None, None]
    noise = torch.rand(2, 12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    held, asked = (ToyEncoder().encode_pixels((255 * (0.7 * mix + 0.3 * grain)).to(torch.uint8)) for grain in noise)
    targets = one_hot(torch.arange(4).repeat_interleave(3), 4).float()
    support = Support(labels, held.pooled, targets, torch.linspace(0.5, 1, 12), ("shot",) * 12, ("x",) * 12)

    def head(prompts: Prompts, images: Support) -> TipX:
        return TipXSettings(**settings).build(zero_shot(prompts, ToyEncoder()), images)

    check_head(head, template_prompts(labels), support, asked)


def test_a_temperature_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="temperature of the signatures is 0; it must be above zero"):
        TipXSettings(temperature=0).build(TEXT, BALANCED)

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
from rag_clip.classifiers.evidence import one_label
from rag_clip.classifiers.gaussian import ALPHAS, GaussianSettings
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support

TEXT = random_text(4, 24, scale=40.0)
QUERIES = Features(unit(torch.randn(9, 24, generator=torch.Generator().manual_seed(1))).double())


def discriminant(rows: np.ndarray, shares: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return -(f - mu_k)' P (f - mu_k) / 2 for each query and class, a sample at a time."""
    means = np.stack([share @ rows / share.sum() for share in shares.T])
    scatter = np.zeros((rows.shape[1],) * 2)
    for row, share in zip(rows, shares, strict=True):
        for mean, part in zip(means, share, strict=True):
            scatter += part * np.outer(row - mean, row - mean)
    count = len(rows)
    covariance = scatter / shares.sum() * count / (count - 1)
    precision = rows.shape[1] * np.linalg.inv((count - 1) * covariance + np.trace(covariance) * np.eye(rows.shape[1]))
    return np.array([[-0.5 * (f - mean) @ precision @ (f - mean) for mean in means] for f in queries])


def samples(text: ZeroShot, support: Support, *, with_text: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the images, then the texts moved by the gap, and what each counts for the classes."""
    rows = support.features.double().numpy()
    shares = (support.shares * support.relevance[:, None]).double().numpy()
    if not with_text:
        return rows, shares
    weights = text.weights.double().numpy()
    gap = np.mean([share @ rows / share.sum() for share in shares.T], axis=0) - weights.mean(0)
    return np.concatenate([rows, weights + gap]), np.concatenate([shares, np.eye(len(weights))])


def added(text: ZeroShot, support: Support, *, alpha: float, text_samples: float = 1.0) -> np.ndarray:
    """Return what the head adds to zero-shot on the queries, centred on each."""
    head = GaussianSettings(alpha=alpha, text_samples=text_samples).build(text, support)
    return centred((head(QUERIES) - text(QUERIES)).numpy())


def centred(scores: np.ndarray) -> np.ndarray:
    return scores - scores.mean(1, keepdims=True)


def log_loss(logits: np.ndarray, targets: np.ndarray) -> float:
    """Return the cross-entropy at the best of the temperatures."""
    logits = logits - logits.max(1, keepdims=True)
    steps = [10 ** (step / 4) * logits for step in range(-8, 3)]
    return min(-float((targets * (step - np.log(np.exp(step).sum(1, keepdims=True)))).sum()) for step in steps)


def test_two_classes_on_a_line_give_the_discriminant_computed_by_hand():
    text = ZeroShot(LabelSet(("left", "right")), torch.tensor([[1.0, 0], [0, 1]]), 100.0)
    angles = torch.tensor([0.1, 0.3, 1.2, 1.4])
    rows = torch.stack([angles.cos(), angles.sin()], 1).double()
    targets = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    support = Support(text.labels, rows, targets, torch.ones(4), ("shot",) * 4, ("a", "b", "c", "d"))
    head = GaussianSettings(alpha=1.0, text_samples=0).build(text, support)
    # S = sum over classes of half the squared difference; with t = tr(S) / 3, P = 2 (S + t I)^-1
    scatter = sum((torch.outer(step, step) / 2 for step in (rows[0] - rows[1], rows[2] - rows[3])), torch.zeros(2, 2))
    precision = 2 * torch.linalg.inv(scatter + scatter.trace() / 3 * torch.eye(2))
    means = torch.stack([rows[:2].mean(0), rows[2:].mean(0)])
    middle = means.mean(0)
    middling = head(Features(middle[None])) - text(Features(middle[None]))
    assert torch.allclose(middling[:, 0], middling[:, 1])
    difference = (means[0] - means[1]) @ precision @ (rows[0] - middle)
    found = (head(Features(rows[:1])) - text(Features(rows[:1])))[0]
    assert torch.allclose(found[0] - found[1], difference)


@pytest.mark.parametrize("with_text", [True, False])
@pytest.mark.parametrize("soft", [True, False])
def test_the_discriminant_equals_the_equation_in_float64(soft: bool, with_text: bool):
    support = random_support(TEXT, [7, 2, 4, 3], soft=soft)
    found = added(TEXT, support, alpha=0.5, text_samples=float(with_text))
    expected = centred(discriminant(*samples(TEXT, support, with_text=with_text), QUERIES.pooled.numpy()))
    assert np.allclose(found, 0.5 * 40 / 100 * expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("soft", [True, False])
def test_alpha_is_that_of_refitting_without_each_image(soft: bool):
    support = random_support(TEXT, [7, 2, 4, 3], soft=soft)
    rows, shares = samples(TEXT, support, with_text=True)
    count = len(support)
    scores = [
        discriminant(np.delete(rows, row, 0), np.delete(shares, row, 0), rows[row : row + 1])[0] for row in range(count)
    ]
    text = TEXT(Features(support.features.double())).numpy()
    losses = {}
    for alpha in ALPHAS:
        logits = text + alpha * 40 / 100 * centred(np.array(scores))
        losses[alpha] = log_loss(logits, shares[:count])
    assert GaussianSettings().build(TEXT, support).alpha == min(losses, key=losses.__getitem__)


def test_weight_zero_is_zero_shot_and_a_class_without_images_keeps_its_text():
    full = GaussianSettings(alpha=0).build(TEXT, random_support(TEXT, [3, 3, 3, 3]))
    assert torch.allclose(full(QUERIES), TEXT(QUERIES), atol=1e-9)
    some = GaussianSettings(alpha=1.0).build(TEXT, random_support(TEXT, [9, 1, 0, 2]))(QUERIES)
    assert torch.equal(some[:, 2], TEXT(QUERIES)[:, 2])
    assert torch.allclose(some.logsumexp(1), TEXT(QUERIES).logsumexp(1))
    assert not torch.allclose(some, TEXT(QUERIES), atol=1.0)


def test_one_class_and_images_without_spread_add_nothing():
    text = random_text(1, 8)
    queries = Features(unit(torch.randn(5, 8, generator=torch.Generator().manual_seed(0))))
    assert torch.allclose(GaussianSettings().build(text, random_support(text, [3]))(queries), text(queries))
    one_each = random_support(TEXT, [1, 1, 1, 1])
    assert np.allclose(added(TEXT, one_each, alpha=1.0, text_samples=0), 0, atol=1e-9)


def test_images_of_no_relevance_count_for_nothing():
    support = random_support(TEXT, [4, 4, 4, 4])
    relevance = torch.ones(16)
    relevance[::2] = 0
    kept = [*range(1, 16, 2)]
    fewer = Support(
        TEXT.labels, support.features[kept], support.targets[kept], torch.ones(8), ("shot",) * 8, tuple("abcdefgh")
    )
    found = added(TEXT, replace(support, relevance=relevance), alpha=1.0)
    assert np.allclose(found, added(TEXT, fewer, alpha=1.0), rtol=1e-9, atol=1e-9)
    nothing = GaussianSettings().build(TEXT, replace(support, relevance=torch.zeros(16)))
    assert torch.equal(nothing(QUERIES), TEXT(QUERIES))


def test_alpha_is_a_fixed_default_where_no_image_may_judge():
    support = random_support(TEXT, [4, 4, 4, 4])
    assert GaussianSettings().build(TEXT, random_support(TEXT, [1, 1, 1, 1])).alpha == 0.1
    assert GaussianSettings().build(TEXT, replace(support, origin=("retrieved",) * 16)).alpha == 0.1


def test_validation_images_judge_where_the_support_may_not():
    support = replace(random_support(TEXT, [3, 3, 3, 3]), origin=("retrieved",) * 12)
    held = as_validation(random_support(TEXT, [9, 9, 9, 9], seed=5))
    targets, images = (
        np.eye(4)[one_label("validation set", held.targets).numpy()],
        Features(held.features.pooled.double()),
    )
    losses = {
        alpha: log_loss(GaussianSettings(alpha=alpha).build(TEXT, support)(images).numpy(), targets) for alpha in ALPHAS
    }
    assert GaussianSettings().build(TEXT, support, validation=held).alpha == min(losses, key=losses.__getitem__)


def test_it_meets_the_contract_of_a_head():
    check_contract(GaussianSettings().build)


def test_negative_numbers_are_refused():
    with pytest.raises(ValueError, match="alpha is -1"):
        GaussianSettings(alpha=-1).build(TEXT, random_support(TEXT, [1, 1, 1, 1]))


@needs_features
@pytest.mark.parametrize(("model", "accuracy"), [("ViTB32", 0.95), ("ViTL14", 0.985)])
def test_four_shots_lift_real_features_over_ridge_regression_with_text(model: str, accuracy: float):
    text, support, images, labels = real_shots(model, 4, 0)
    assert (GaussianSettings().build(text, support)(images).argmax(1) == labels).double().mean() >= accuracy

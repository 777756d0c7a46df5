from dataclasses import replace
from typing import Any

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
from rag_clip.classifiers.ridge import BANDWIDTHS, PENALTIES, RidgeSettings
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support

TEXT = random_text(4, 24, scale=40.0)
QUERIES = Features(unit(torch.randn(9, 24, generator=torch.Generator().manual_seed(1))).double())


class Equation:
    """The module's equation in float64, an image at a time."""

    def __init__(self, text: ZeroShot, support: Support, bandwidth: float, penalty: float, *, balanced: bool = True):
        self.text = text.scale * text.weights.double().numpy()
        self.rows = support.features.double().numpy()
        relevance = support.relevance.double().numpy()
        targets = support.shares.double().numpy()
        mass = relevance @ targets
        self.weights = relevance * (targets @ (mass.mean() / mass)) if balanced else relevance
        pairs = [1 - a @ b for row, a in enumerate(self.rows) for other, b in enumerate(self.rows) if row != other]
        self.rate, self.penalty = bandwidth / sorted(pairs)[(len(pairs) - 1) // 2], penalty
        prior, wanted = self.prior(self.rows), targets - targets.mean(1, keepdims=True)
        weighted = self.weights[:, None] * prior
        self.gain = max((weighted * wanted).sum() / (weighted * prior).sum(), 1 / text.scale)
        self.residual = wanted - self.gain * prior

    def prior(self, rows: np.ndarray) -> np.ndarray:
        logits = rows @ self.text.T
        return logits - logits.mean(1, keepdims=True)

    def predict(self, queries: np.ndarray, kept: list[int]) -> np.ndarray:
        """Return what the images `kept` say of the residual of the queries."""
        rows = self.rows[kept]
        kernel = np.exp(self.rate * (rows @ rows.T - 1))
        noise = self.penalty * np.diag(1 / self.weights[kept])
        return np.exp(self.rate * (queries @ rows.T - 1)) @ np.linalg.solve(kernel + noise, self.residual[kept])

    def left_out_error(self, judges: range | None = None) -> float:
        """Refit without each image, and sum the weighted squared errors on those that judge."""
        count = len(self.rows)
        found = [
            self.predict(self.rows[row : row + 1], [other for other in range(count) if other != row])[0]
            for row in range(count)
        ]
        errors = self.weights[:, None] * (self.residual - np.array(found)) ** 2
        return float(errors[judges or range(count)].sum())


def added(text: ZeroShot, support: Support, bandwidth: float = 1.0, penalty: float = 1.0, **options: Any) -> np.ndarray:
    """Return what the head adds to zero-shot on the queries, centred on each."""
    head = RidgeSettings(bandwidth=bandwidth, penalty=penalty, **options).build(text, support)
    found = (head(QUERIES) - text(QUERIES)).numpy()
    return np.asarray(found - found.mean(1, keepdims=True))


def test_one_image_of_each_of_two_classes_gives_the_coefficients_computed_by_hand():
    text = ZeroShot(LabelSet(("cat", "dog")), torch.eye(2), 2.0)
    support = Support(text.labels, torch.eye(2), torch.eye(2), torch.ones(2), ("shot",) * 2, ("a", "b"))
    head = RidgeSettings(bandwidth=1.0, penalty=0.5, mode="published").build(text, support)
    # targets and prior are [1 -1; -1 1] times 1/2 and 1: g = 1/2, which the bound 1 / scale does not change, R = 0
    assert torch.allclose(head.coefficients, torch.zeros(2, 2).double())
    swapped = replace(support, targets=torch.eye(2).flip(0))
    # now g is the bound 1/2 and R = [-1 1; 1 -1]; K = [1 e; e 1] with e = exp(-1): A = R / (1 - e + 0.5), over g
    expected = torch.tensor([[-1.0, 1], [1, -1]]).double() / (1.5 - np.exp(-1)) / 0.5
    assert torch.allclose(RidgeSettings(bandwidth=1.0, penalty=0.5).build(text, swapped).coefficients, expected)


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("mode", ["balanced", "published"])
def test_logits_equal_the_equation_in_float64(soft: bool, mode: str):
    support = random_support(TEXT, [7, 2, 4, 3], soft=soft)
    equation = Equation(TEXT, support, 3.0, 0.1, balanced=mode == "balanced")
    expected = equation.predict(QUERIES.pooled.numpy(), [*range(16)]) / equation.gain
    assert np.allclose(added(TEXT, support, 3.0, 0.1, mode=mode), expected, rtol=1e-5, atol=1e-5)


def test_the_settings_are_those_of_refitting_without_each_image():
    support = random_support(TEXT, [5, 2, 3, 3], soft=True)
    errors = {
        (bandwidth, penalty): Equation(TEXT, support, bandwidth, penalty).left_out_error()
        for bandwidth in BANDWIDTHS
        for penalty in PENALTIES
    }
    chosen = RidgeSettings().build(TEXT, support)
    assert (chosen.bandwidth, chosen.penalty) == min(errors, key=errors.__getitem__)


def test_retrieved_images_count_but_do_not_judge():
    support = replace(random_support(TEXT, [5, 2, 3, 3]), origin=("shot",) * 5 + ("retrieved",) * 8)
    errors = {each: Equation(TEXT, support, 3.0, each).left_out_error(range(5)) for each in PENALTIES}
    everything = {each: Equation(TEXT, support, 3.0, each).left_out_error() for each in PENALTIES}
    best = min(errors, key=errors.__getitem__)
    assert (
        RidgeSettings(bandwidth=3.0).build(TEXT, support).penalty == best != min(everything, key=everything.__getitem__)
    )


def test_a_large_penalty_is_zero_shot_and_a_class_without_images_keeps_its_text():
    support = random_support(TEXT, [9, 1, 0, 2])
    assert torch.allclose(RidgeSettings(penalty=1e9).build(TEXT, support)(QUERIES), TEXT(QUERIES), atol=1e-6)
    found = RidgeSettings(penalty=0.1).build(TEXT, support)(QUERIES)
    assert torch.equal(found[:, 2], TEXT(QUERIES)[:, 2])
    assert torch.allclose(found.logsumexp(1), TEXT(QUERIES).logsumexp(1))
    assert not torch.allclose(found, TEXT(QUERIES), atol=1.0)


def test_one_class_and_images_of_no_relevance_add_nothing():
    text = random_text(1, 8)
    queries = Features(unit(torch.randn(5, 8, generator=torch.Generator().manual_seed(0))))
    assert torch.allclose(RidgeSettings().build(text, random_support(text, [3]))(queries), text(queries))
    support = random_support(TEXT, [2, 2, 2, 2])
    assert torch.equal(RidgeSettings().build(TEXT, replace(support, relevance=torch.zeros(8)))(QUERIES), TEXT(QUERIES))


def test_copies_of_the_images_of_a_class_do_not_favour_it():
    support = random_support(TEXT, [2, 2, 2, 2])
    rows = [0, 1, 0, 1, 0, 1, 2, 3, 4, 5, 6, 7]
    copied = Support(
        TEXT.labels,
        support.features[rows],
        support.targets[rows],
        torch.ones(12),
        ("shot",) * 12,
        tuple("abcdefghijkl"),
    )
    even, uneven, published = (
        added(TEXT, each, penalty=3.0, mode=mode)[:, 0]
        for each, mode in ((support, "balanced"), (copied, "balanced"), (copied, "published"))
    )
    assert abs((uneven - even).mean()) < 0.5 * abs((published - even).mean())


def test_settings_are_fixed_where_no_image_may_judge():
    support = random_support(TEXT, [4, 4, 4, 4])
    for given in (random_support(TEXT, [1, 1, 1, 1]), replace(support, origin=("retrieved",) * 16)):
        head = RidgeSettings().build(TEXT, given)
        assert (head.bandwidth, head.penalty) == (1.0, 1.0)


def test_validation_images_judge_beside_the_shots():
    support = random_support(TEXT, [2, 2, 2, 2])
    held = as_validation(random_support(TEXT, [9, 9, 9, 9], seed=5))
    wanted = np.eye(4)[one_label("validation set", held.targets).numpy()] - 0.25
    images = held.features.pooled.double().numpy()
    errors = {}
    for penalty in PENALTIES:
        equation = Equation(TEXT, support, 3.0, penalty)
        found = equation.gain * equation.prior(images) + equation.predict(images, [*range(8)])
        errors[penalty] = equation.left_out_error() + ((wanted - found) ** 2).sum()
    assert RidgeSettings(bandwidth=3.0).build(TEXT, support, validation=held).penalty == min(
        errors, key=errors.__getitem__
    )


def test_it_meets_the_contract_of_a_head():
    check_contract(RidgeSettings().build)


def test_numbers_that_are_not_above_zero_are_refused():
    with pytest.raises(ValueError, match="penalty 0"):
        RidgeSettings(penalty=0).build(TEXT, random_support(TEXT, [1, 1, 1, 1]))


@needs_features
@pytest.mark.parametrize(("model", "accuracy"), [("ViTB32", 0.938), ("ViTL14", 0.975)])
def test_four_shots_lift_real_features(model: str, accuracy: float):
    text, support, images, labels = real_shots(model, 4, 0)
    assert (RidgeSettings().build(text, support)(images).argmax(1) == labels).double().mean() >= accuracy

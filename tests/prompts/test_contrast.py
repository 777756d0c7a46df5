from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from rag_clip.prompts.contrast import BLOCK_VALUES, KNOWN_WEIGHT, confirmed, contrast, trust


def rows(*angles: float) -> torch.Tensor:
    radians = torch.deg2rad(torch.tensor(angles, dtype=torch.float64))
    return torch.stack([radians.cos(), radians.sin()], 1)


def reference(vectors: np.ndarray, classes: np.ndarray, count: int, scale: float, rounds: int) -> np.ndarray:
    """The equation of prompts.contrast, one caption at a time."""
    sizes = [int((classes == row).sum()) for row in range(count)]
    shares = np.array([1 / sizes[row] for row in classes])
    for _ in range(rounds):
        sums = {row: (shares[:, None] * vectors)[classes == row].sum(0) for row in range(count) if sizes[row]}
        means = {row: total / np.linalg.norm(total) for row, total in sums.items()}
        weights = []
        for vector, own in zip(vectors, classes, strict=True):
            exponents = {row: math.exp(scale * float(vector @ mean)) for row, mean in means.items()}
            weights.append(exponents[own] / sum(exponents.values()))
        totals = {row: sum(w for w, own in zip(weights, classes, strict=True) if own == row) for row in range(count)}
        shares = np.array([weight / totals[own] for weight, own in zip(weights, classes, strict=True)])
    return shares


def test_one_round_by_hand():
    vectors, classes = rows(0, 60, 120, 120), torch.tensor([0, 0, 1, 1])
    # The means lie at 30 and 120 degrees: cosines .866 and -.5 for the caption at 0, .866 and .5 for that at 60.
    first, second = 1 / (1 + math.exp(-0.5 - 3**0.5 / 2)), 1 / (1 + math.exp(0.5 - 3**0.5 / 2))
    expected = [first / (first + second), second / (first + second), 0.5, 0.5]
    found = contrast(vectors, classes, count=2, scale=1.0, rounds=1)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_without_a_round_captions_share_equally():
    found = contrast(rows(0, 60, 120), torch.tensor([1, 1, 2]), count=4, scale=5.0, rounds=0)
    np.testing.assert_allclose(found.numpy(), [0.5, 0.5, 1.0], atol=1e-15)


def test_shares_agree_with_the_equation_on_random_captions_with_ties_and_empty_classes():
    draw = torch.Generator().manual_seed(0)
    vectors = normalize(torch.randn(40, 6, generator=draw, dtype=torch.float64), dim=1)
    vectors[5:8] = vectors[4]
    classes = torch.randint(0, 7, (40,), generator=draw)
    classes[classes == 3] = 4
    for rounds in (1, 2, 4):
        found = contrast(vectors, classes, count=7, scale=9.0, rounds=rounds)
        np.testing.assert_allclose(
            found.numpy(), reference(vectors.numpy(), classes.numpy(), 7, 9.0, rounds), atol=1e-9
        )


def test_captions_of_several_blocks_agree_with_the_equation_in_both_precisions():
    draw = torch.Generator().manual_seed(1)
    vectors = normalize(torch.randn(1200, BLOCK_VALUES // 1000, generator=draw, dtype=torch.float64), dim=1)
    classes = torch.randint(0, 3, (1200,), generator=draw)
    expected = reference(vectors.numpy(), classes.numpy(), 3, 30.0, 2)
    for given, tolerance in ((vectors, 1e-12), (vectors.float(), 1e-7)):
        found = contrast(given, classes, count=3, scale=30.0)
        assert found.dtype == given.dtype
        np.testing.assert_allclose(found.numpy(), expected, atol=tolerance)


def test_a_caption_nearer_another_class_fades_and_so_does_one_that_fits_all():
    vectors, classes = rows(0, 2, 91, 45, 90, 91, 45), torch.tensor([0, 0, 0, 0, 1, 1, 1])
    found = contrast(vectors, classes, count=2, scale=30.0).tolist()
    assert found[2] < 1e-6
    assert found[2] < found[3] < 0.35
    assert found[0] > 0.3


def test_captions_that_all_fit_another_class_better_keep_finite_shares():
    vectors = rows(0, 0, 180, 181, 180, 180, 180)
    found = contrast(vectors, torch.tensor([0, 0, 0, 1, 1, 1, 1]), count=2, scale=1e4)
    assert bool(found.isfinite().all())
    np.testing.assert_allclose([found[:3].sum(), found[3:].sum()], 1.0, atol=1e-12)


def test_a_class_alone_has_nothing_to_contrast_with():
    found = contrast(rows(0, 30, 60), torch.zeros(3, dtype=torch.int64), count=1, scale=10.0)
    np.testing.assert_allclose(found.numpy(), 1 / 3, atol=1e-12)


EYE = torch.eye(3, dtype=torch.float64)


def given(templates: torch.Tensor, vectors: torch.Tensor, classes: list[int], weight: float = 0.9) -> list[float]:
    rows = torch.tensor(classes)
    shares = (1 / torch.bincount(rows, minlength=3)[rows]).double()
    return trust(templates, vectors, rows, shares, scale=40.0, weight=weight).tolist()


def test_a_known_name_keeps_its_templates_and_an_unknown_one_leans_on_its_captions():
    captions = EYE[[0, 0, 1, 1, 2, 2]]
    templates = EYE[[0, 0, 2]]  # the templates of class 1 point to the captions of class 0
    found = given(templates, captions, [0, 0, 1, 1, 2, 2])
    assert found == pytest.approx([KNOWN_WEIGHT, 0.9, KNOWN_WEIGHT], abs=1e-9)


def test_a_weight_below_the_published_one_is_never_raised():
    assert given(EYE, EYE[[0, 0, 1, 1, 2, 2]], [0, 0, 1, 1, 2, 2], weight=0.1) == pytest.approx([0.1] * 3)


def test_half_known_names_get_the_mean_of_both_weights():
    halves = normalize(EYE[[0]] + EYE[[1]], dim=1)
    found = given(torch.cat([halves, halves, EYE[[2]]]), EYE[[0, 0, 1, 1, 2, 2]], [0, 0, 1, 1, 2, 2])
    assert found[:2] == pytest.approx([(KNOWN_WEIGHT + 0.9) / 2] * 2)


def test_a_lone_caption_scattered_ones_and_none_leave_the_weight_to_the_templates():
    unknown = EYE[[1, 0, 0]]
    lone = given(unknown, EYE[[0, 1, 1]], [0, 1, 1])
    assert (lone[0], lone[2]) == (0.0, 0.0)
    assert lone[1] > 0.8
    scattered = given(unknown, EYE[[0, 1, 1, 1, 2, 2]], [0, 0, 1, 1, 2, 2])
    assert scattered[0] == 0.0
    assert min(scattered[1:]) > 0.8


def test_weights_agree_with_the_equation_on_random_captions():
    draw = torch.Generator().manual_seed(1)
    centres = normalize(torch.randn(6, 5, generator=draw, dtype=torch.float64), dim=1)
    classes = torch.randint(0, 5, (40,), generator=draw)  # class 5 has no caption
    noise = torch.randn(40, 5, generator=draw, dtype=torch.float64)
    spread = torch.tensor([0.3, 0.3, 0.3, 3, 3], dtype=torch.float64)[classes, None]
    vectors = normalize(centres[classes] + spread * noise, dim=1)
    templates = normalize(centres + 0.5 * torch.randn(6, 5, generator=draw, dtype=torch.float64), dim=1)
    raw = torch.rand(40, generator=draw, dtype=torch.float64)
    shares = raw / torch.zeros(6, dtype=torch.float64).index_add_(0, classes, raw)[classes]
    found = trust(templates, vectors, classes, shares, scale=8.0, weight=0.8)
    expected = trust_reference(templates.numpy(), vectors.numpy(), classes.numpy(), shares.numpy(), 8.0, 0.8)
    np.testing.assert_allclose(found.numpy()[:5], expected, atol=1e-9)
    assert found[5] == 0
    sure = confirmed(vectors, classes, shares, count=6, scale=8.0)
    assert trust(templates, vectors, classes, shares, scale=8.0, weight=0.8, sure=sure).equal(found)
    assert trust(templates, vectors, classes, shares, scale=8.0, weight=0.8, sure=0 * sure).tolist() == [0.0] * 6
    assert len({value > 0 for value in expected}) == 2, "no class is trusted, or all are: the case tells too little"


def trust_reference(
    templates: np.ndarray, vectors: np.ndarray, classes: np.ndarray, shares: np.ndarray, scale: float, weight: float
) -> list[float]:
    """The equation of trust, one class and one caption at a time, for classes that have captions."""
    present = sorted(set(classes.tolist()))
    sums = {row: (shares[:, None] * vectors)[classes == row].sum(0) for row in present}

    def probability(vector: np.ndarray, own: int, less: np.ndarray | float = 0.0) -> float:
        means = {row: total - less if row == own else total for row, total in sums.items()}
        exponents = {row: math.exp(scale * float(vector @ mean) / np.linalg.norm(mean)) for row, mean in means.items()}
        return exponents[own] / sum(exponents.values())

    weights = []
    for row in present:
        known = probability(templates[row], row)
        members = np.flatnonzero(classes == row)
        sure = sum(shares[k] * probability(vectors[k], row, shares[k] * vectors[k]) for k in members)
        weights.append(known * min(weight, 0.25) + (1 - known) * weight if sure >= 0.3 else 0.0)
    return weights

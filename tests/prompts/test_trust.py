import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from rag_clip.prompts.trust import KNOWN_WEIGHT, trust

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
    expected = reference(templates.numpy(), vectors.numpy(), classes.numpy(), shares.numpy(), 8.0, 0.8)
    np.testing.assert_allclose(found.numpy()[:5], expected, atol=1e-9)
    assert found[5] == 0
    assert len({value > 0 for value in expected}) == 2, "no class is trusted, or all are: the case tells too little"


def reference(
    templates: np.ndarray, vectors: np.ndarray, classes: np.ndarray, shares: np.ndarray, scale: float, weight: float
) -> list[float]:
    """The equation of prompts.trust, one class and one caption at a time, for classes that have captions."""
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

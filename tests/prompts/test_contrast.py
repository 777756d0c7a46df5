import math

import numpy as np
import torch
from torch.nn.functional import normalize

from rag_clip.prompts.contrast import BLOCK_VALUES, contrast


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

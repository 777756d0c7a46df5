import math

import pytest
import torch
from torch.nn.functional import normalize

from rag_clip.prompts.contrast import contrast
from rag_clip.prompts.known import known_share, nearer_names


def share(nearer: list[int], captions: list[int]) -> float:
    return known_share(torch.tensor(nearer), torch.tensor(captions))


def test_names_nearer_to_a_caption_mean_than_its_own_are_counted():
    angles = torch.deg2rad(torch.tensor([0.0, 60.0, 90.0], dtype=torch.float64))
    names = torch.stack([angles.cos(), angles.sin()], 1)
    # As good as without contrast, class 0 has captions at 60 and 90 degrees, their mean at 75: both other names are
    # nearer. The caption of class 2 is its own name's.
    found = nearer_names(names, names[[1, 2, 2]], torch.tensor([0, 0, 2]), scale=1e-6)
    assert found.tolist() == [2, 0, 0]


def test_the_count_agrees_with_one_class_at_a_time():
    draw = torch.Generator().manual_seed(0)
    names, vectors = (normalize(torch.randn(rows, 6, generator=draw), dim=1) for rows in (9, 40))
    classes = torch.randint(0, 9, (40,), generator=draw)
    shares = contrast(vectors, classes, count=9, scale=9.0)
    expected = []
    for row in range(9):
        cosines = names @ (shares[:, None] * vectors)[classes == row].sum(0)
        expected.append(sum(float(one) > float(cosines[row]) for one in cosines))
    assert nearer_names(names, vectors, classes, scale=9.0).tolist() == expected


def test_the_share_of_three_classes_by_hand():
    # tau = 0.7 and Z = 1 + exp(-1 / 0.7) + exp(-2 / 0.7) = 1.2970; 6 captions have q = 0.85 * 6 / 7.5 = 0.68, so that
    # p / u = 3 * 0.68 / Z + 0.32 = 1.8929 for b = 0, and 3 * 0.68 * 0.2397 / Z + 0.32 = 0.6969 for b = 1. K makes
    # (1 + 0.8929 K)^2 (1 - 0.3031 K) largest, which is at (2 * 0.8929 - 0.3031) / (3 * 0.8929 * 0.3031) above 1.
    assert share([0, 0, 1], [6, 6, 6]) == pytest.approx(1, abs=1e-3)
    # With two that are second, (1 + 0.8929 K) (1 - 0.3031 K)^2 is largest at (0.8929 - 0.6062) / (3 * 0.8929 * 0.3031).
    assert share([0, 1, 1], [6, 6, 6]) == pytest.approx(0.3532, abs=1e-3)


def test_the_share_is_the_most_likely_one():
    nearer, captions = [0, 0, 0, 1, 0, 4, 7, 2, 0, 9], [200, 20, 5, 1, 3, 200, 40, 9, 2, 30]
    whole = sum(math.exp(-b / 0.7) for b in range(10))

    def likelihood(known: float) -> float:
        total = 0.0
        for b, n in zip(nearer, captions, strict=True):
            q = 0.85 * n / (n + 1.5)
            total += math.log(known * (q * math.exp(-b / 0.7) / whole + (1 - q) / 10) + (1 - known) / 10)
        return total

    best = max((step / 1000 for step in range(1001)), key=likelihood)
    assert 0.1 < best < 0.9
    assert share(nearer, captions) == pytest.approx(best, abs=2e-3)


def test_all_names_known_and_none():
    assert share([0] * 20, [50] * 20) == pytest.approx(1)
    assert share(list(range(20)), [50] * 20) < 0.2
    assert share([19] * 20, [50] * 20) == pytest.approx(0, abs=1e-6)


def test_nothing_is_learned_from_a_single_class_or_without_captions():
    assert share([0], [100]) == pytest.approx(0.5)
    assert share([0, 0], [0, 0]) == 0.5
    assert share([], []) == 0.5


def test_classes_without_captions_do_not_count():
    some = share([0, 0, 5, 0, 3, 0], [9, 9, 9, 0, 0, 0])
    assert some == share([0, 0, 5, 5, 5, 5], [9, 9, 9, 0, 0, 0])


def test_few_captions_say_less():
    # With q near 0 both likelihoods are alike, so that a second-nearest name speaks less against the others.
    assert share([0, 1, 1], [100, 1, 1]) > share([0, 1, 1], [100, 100, 100])

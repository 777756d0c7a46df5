import pytest
import torch

from inputs.supports import unit
from rag_clip.classifiers.likelihoods import evidence_of, solve

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = unit(torch.randn(30, 6, generator=GENERATOR, dtype=torch.float64) + 1)
SHARES = torch.rand(30, 4, generator=GENERATOR, dtype=torch.float64)
TEXTS = unit(torch.randn(4, 6, generator=GENERATOR, dtype=torch.float64))


def test_the_classifier_of_three_images_by_hand() -> None:
    images = unit(torch.tensor([[1, 0.2], [0.3, 1], [0.9, 0.5]], dtype=torch.float64))
    shares = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], dtype=torch.float64)
    texts = unit(torch.tensor([[1, -0.2], [-0.2, 1]], dtype=torch.float64))
    found = solve(evidence_of(images, shares), texts)
    expected = torch.tensor([[7.649447, 1.991624], [2.42107, 7.367348]], dtype=torch.float64)
    torch.testing.assert_close(found.weights, expected, rtol=0, atol=1e-6)
    biases = torch.tensor([-4.065044, -3.894523], dtype=torch.float64)
    torch.testing.assert_close(found.biases, biases, rtol=0, atol=1e-6)


def test_evidence_of_two_parts_adds_up_and_a_part_can_be_taken_away_again() -> None:
    whole = evidence_of(IMAGES, SHARES)
    first, second = (evidence_of(IMAGES[rows], SHARES[rows]) for rows in (slice(12), slice(12, None)))
    for found in (first + second, whole + 0.5 * first - first * 0.5):
        for name in ("counts", "sums", "squares"):
            torch.testing.assert_close(getattr(found, name), getattr(whole, name))
    without = solve(whole - second, TEXTS)
    torch.testing.assert_close(without.weights, solve(first, TEXTS).weights)
    torch.testing.assert_close(without.biases, solve(first, TEXTS).biases)


def test_a_class_without_images_stands_at_its_text_and_the_gap() -> None:
    shares = SHARES.clone()
    shares[:, 2] = 0
    evidence = evidence_of(IMAGES, shares)
    gap = (evidence.sums.sum(0) - evidence.counts @ TEXTS) / evidence.counts.sum()
    torch.testing.assert_close(solve(evidence, TEXTS).means[2], TEXTS[2] + gap)


def test_classes_may_come_in_any_order() -> None:
    order = torch.tensor([2, 0, 3, 1])
    found, moved = solve(evidence_of(IMAGES, SHARES), TEXTS), solve(evidence_of(IMAGES, SHARES[:, order]), TEXTS[order])
    torch.testing.assert_close(moved.weights, found.weights[order], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(moved.biases, found.biases[order], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("images", [0, 1])
def test_next_to_no_images_give_finite_numbers(images: int) -> None:
    found = solve(evidence_of(IMAGES[:images], SHARES[:images]), TEXTS)
    assert torch.isfinite(found.weights).all()
    assert torch.isfinite(found.biases).all()

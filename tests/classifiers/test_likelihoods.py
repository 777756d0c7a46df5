import pytest
import torch

from inputs.supports import unit
from rag_clip.classifiers.likelihoods import evidence_of, likelihood_weight, solve, split_decision

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


def test_parts_of_a_decision_add_up_to_the_likelihoods_and_shares_to_one() -> None:
    sources = {"shot": evidence_of(IMAGES[:9], SHARES[:9]), "batch": 0.5 * evidence_of(IMAGES[9:], SHARES[9:])}
    total = sources["shot"] + sources["batch"]
    found, image = solve(total, TEXTS), IMAGES[3] + 0.1
    scores = likelihood_weight(total) * (found.weights @ image + found.biases)
    for rows in ((0, 1), (3, 2)):
        parts = split_decision(sources, TEXTS, image, rows)
        assert [part.source for part in parts] == ["text", "shot", "batch"]
        assert sum(part.gap for part in parts) == pytest.approx(float(scores[rows[0]] - scores[rows[1]]), abs=1e-12)
        for place in (0, 1):
            assert sum(part.shares[place] for part in parts) == pytest.approx(1)
            mean = float(scores[list(rows)].mean())
            assert sum(part.lifts[place] for part in parts) == pytest.approx(
                float(scores[rows[place]]) - mean, abs=1e-12
            )
    shot = split_decision(sources, TEXTS, image, (0, 1))[1]
    assert shot.shares[0] == pytest.approx(float(sources["shot"].counts[0] / (total.counts[0] + 1)))

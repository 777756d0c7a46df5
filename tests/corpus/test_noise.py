from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from inputs.folders import FEATURES, needs_features
from rag_clip.corpus.noise import mismatched_losses, noise_probability, noise_share, pair_losses


def skewed(seed, n, *, noisy):
    """Return losses of n pairs, the first of them noise, and mismatched ones: right captions have a long right tail."""
    draw = np.random.default_rng(seed)
    losses = draw.gamma(1.2, 1.2, n)
    losses[: round(noisy * n)] = draw.normal(14, 3, round(noisy * n))
    return losses, draw.normal(14, 3, n)


def noise_of(images, texts):
    return noise_probability(pair_losses(images, texts, scale=100.0), mismatched_losses(images, texts, scale=100.0))


def rows(n, seed, d=8):
    return normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_a_pair_loss_is_the_mean_of_both_cross_entropies():
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    losses = pair_losses(images, texts, scale=2.0, shuffles=1)  # Z = [[2, 1.2], [0, 1.6]]
    first = (np.log1p(np.exp(1.2 - 2)) + np.log1p(np.exp(0 - 2))) / 2
    second = (np.log1p(np.exp(0 - 1.6)) + np.log1p(np.exp(1.2 - 1.6))) / 2
    np.testing.assert_allclose(losses, [first, second], rtol=1e-6)


def test_losses_of_one_batch_agree_with_float64_numpy():
    images, texts = rows(20, 1), rows(20, 2)
    logits = 10 * images.double().numpy() @ texts.double().numpy().T
    by_row = np.log(np.exp(logits).sum(1)) - logits.diagonal()
    by_column = np.log(np.exp(logits).sum(0)) - logits.diagonal()
    np.testing.assert_allclose(pair_losses(images, texts, scale=10.0), (by_row + by_column) / 2, rtol=1e-5)


def test_every_pair_is_measured_in_batches_of_one_size():
    images, texts = rows(23, 1), rows(23, 2)
    losses = pair_losses(images, texts, scale=0.0, batch=5, shuffles=2)
    np.testing.assert_allclose(losses, np.full(23, np.log(5)), rtol=1e-6)


def test_a_seed_gives_the_same_losses_and_another_seed_others():
    images, texts = rows(23, 1), rows(23, 2)
    first = pair_losses(images, texts, scale=5.0, batch=5, seed=1)
    assert np.array_equal(first, pair_losses(images, texts, scale=5.0, batch=5, seed=1))
    assert not np.array_equal(first, pair_losses(images, texts, scale=5.0, batch=5, seed=2))


def test_an_equal_caption_is_no_negative():
    images = torch.eye(3)
    texts = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 0, 1.0]])
    losses = pair_losses(images, texts, scale=1.0, shuffles=1)
    first = (np.log(np.e + 1) - 1 + np.log(np.e + 1) - 1) / 2  # against the third pair alone
    assert losses[0] == pytest.approx(first, rel=1e-6)


def test_features_that_do_not_pair_are_refused():
    with pytest.raises(
        ValueError, match=r"image features \(3, 8\) and text features \(2, 8\) must be of the same shape"
    ):
        pair_losses(rows(3, 1), rows(2, 2), scale=1.0)
    with pytest.raises(ValueError, match="n at least 2"):
        pair_losses(rows(1, 1), rows(1, 2), scale=1.0)


def test_a_mismatched_loss_is_that_of_the_pair_in_a_corpus_without_the_own_caption():
    images, texts = rows(12, 1), rows(12, 2)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0)).tolist()
    logits = 10 * images.double().numpy() @ texts.double().numpy().T
    expected = []
    for image, given in zip(order, [*order[1:], order[0]], strict=True):
        by_row = np.log(np.exp(np.delete(logits[image], image)).sum())
        by_column = np.log(np.exp(np.delete(logits[:, given], given)).sum())
        expected.append((by_row + by_column) / 2 - logits[image, given])
    np.testing.assert_allclose(mismatched_losses(images, texts, scale=10.0), expected, rtol=1e-5)


def test_an_image_that_gets_its_own_caption_again_is_not_mismatched():
    assert len(mismatched_losses(rows(4, 1), rows(1, 2).expand(4, 8), scale=10.0)) == 0


def test_mismatched_losses_are_one_per_pair_in_batches_of_one_size():
    losses = mismatched_losses(rows(23, 1), rows(23, 2), scale=0.0, batch=5)
    np.testing.assert_allclose(losses, np.full(23, np.log(4)), rtol=1e-6)  # of five captions, the own is away


def test_the_probability_is_that_of_the_densities_in_float64():
    losses, mismatched = skewed(0, 2000, noisy=0.2)
    tails = np.quantile(mismatched, np.linspace(0.05, 0.75, 15))
    share = min((losses > tail).mean() / (mismatched > tail).mean() for tail in tails)
    spread = min(mismatched.std(), np.subtract(*np.quantile(mismatched, [0.75, 0.25])) / 1.34)
    width = 1.06 * spread * 2000**-0.2
    grid = np.linspace(losses.min(), mismatched.max(), 400)
    h, f = (np.exp(-0.5 * ((grid[:, None] - held) / width) ** 2).mean(1) for held in (mismatched, losses))
    expected = np.interp(losses, grid, np.maximum.accumulate(np.minimum(1, share * h / f)))
    assert noise_share(losses, mismatched) == pytest.approx(share, abs=1e-12)
    np.testing.assert_allclose(noise_probability(losses, mismatched), expected, atol=0.02)


@pytest.mark.parametrize("n", [20, 250, 2000])
def test_without_noise_next_to_nothing_is_noise_however_skewed_the_losses_are(n):
    flagged = [noise_probability(*skewed(seed, n, noisy=0)) > 0.5 for seed in range(10)]
    assert np.mean(flagged) < 0.005


def test_half_and_more_of_much_noise_is_found_and_few_clean_pairs():
    for noisy in (0.05, 0.2, 0.4):
        losses, mismatched = skewed(1, 2000, noisy=noisy)
        flagged, bad = noise_probability(losses, mismatched) > 0.5, np.arange(2000) < 2000 * noisy
        assert flagged[bad].mean() > 0.85
        assert flagged[~bad].mean() < 0.01


def test_the_probability_never_falls_as_the_loss_grows():
    losses, mismatched = skewed(2, 2000, noisy=0.2)
    ordered = noise_probability(losses, mismatched)[np.argsort(losses)]
    assert (np.diff(ordered) >= 0).all()
    assert ordered[0] < 1e-3
    assert ordered[-1] == pytest.approx(1, abs=0.05)


def test_what_is_worse_than_any_wrong_caption_is_noise():
    losses, mismatched = skewed(3, 1000, noisy=0.2)
    assert noise_probability(np.append(losses, 1e6), mismatched)[-1] == pytest.approx(1, abs=0.05)


def test_scale_shift_and_order_change_nothing():
    losses, mismatched = skewed(4, 1000, noisy=0.2)
    expected = noise_probability(losses, mismatched)
    np.testing.assert_allclose(noise_probability(7 * losses - 3, 7 * mismatched - 3), expected, atol=1e-6)
    np.testing.assert_allclose(noise_probability(losses[::-1], mismatched[::-1])[::-1], expected, atol=1e-12)


def test_without_anything_to_compare_with_nothing_is_noise():
    assert noise_probability(np.arange(5.0), np.zeros(0)).tolist() == [0.0] * 5
    assert noise_probability(np.ones(5), np.ones(5)).tolist() == [0.0] * 5


@pytest.mark.parametrize("losses", [[], [1.0, float("nan")], [[1.0, 2.0]]])
def test_losses_that_are_no_losses_are_refused(losses):
    with pytest.raises(ValueError, match=r"must be finite numbers|there is no loss"):
        noise_probability(np.array(losses), np.arange(3.0))


@needs_features
def test_genuine_captions_of_which_none_is_wrong_all_stay():
    held = np.load(FEATURES / "coco_val2017_250_CLIP_ViTB16.npz")
    images, texts = (normalize(torch.from_numpy(held[key]).float(), dim=-1) for key in ("image", "caption_feature"))
    clean = noise_of(images, texts)
    assert (clean > 0.5).sum() == 0  # two Gaussians took 71 % for noise
    shuffled = texts.clone()
    shuffled[:25] = texts[:25].roll(1, 0)
    noise = noise_of(images, shuffled)
    assert (noise[:25] > 0.5).mean() >= 0.8
    assert (noise[25:] > 0.5).mean() <= 0.01

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from rag_clip.corpus.noise import fit_mixture, noise_probability, pair_losses


def two_bells(seed=0):
    """The draw on which free variances give the best pair a probability of 0.995."""
    draw = np.random.default_rng(seed)
    return np.concatenate([draw.normal(0.2, 0.05, 9000), draw.normal(0.6, 0.2, 1000)])


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


def test_the_mixture_finds_the_two_bells():
    values = two_bells()
    mixture = fit_mixture((values - values.min()) / np.ptp(values))
    np.testing.assert_allclose(mixture.means * np.ptp(values) + values.min(), [0.2, 0.6], atol=0.03)
    np.testing.assert_allclose(np.sqrt(mixture.variances) * np.ptp(values), [0.05, 0.2], atol=0.02)
    np.testing.assert_allclose(mixture.shares, [0.9, 0.1], atol=0.02)


def test_two_kinds_of_noise_are_both_noise_although_one_is_far_worse():
    draw = np.random.default_rng(2)
    bells = [(2.3, 0.8, 1500), (7.4, 0.6, 750), (21.0, 6.0, 250)]
    values = np.concatenate([draw.normal(*bell) for bell in bells])
    noise = noise_probability(values)
    assert (noise[:1500] < 0.5).mean() > 0.95
    assert (noise[1500:] > 0.5).mean() > 0.99


def test_the_best_pair_is_clean_although_the_raw_mixture_calls_it_noise():
    values = two_bells()
    scaled = (values - values.min()) / np.ptp(values)
    best = scaled.argmin()
    assert fit_mixture(scaled).noisy(scaled)[best] > 0.9
    assert noise_probability(values)[best] == 0


def test_the_probability_never_falls_as_the_loss_grows():
    values = two_bells()
    ordered = noise_probability(values)[np.argsort(values)]
    assert (np.diff(ordered) >= 0).all()
    assert (ordered[0], ordered[-1]) == (0, pytest.approx(1))


def test_a_narrow_noisy_bell_stays_noise_in_the_far_right_tail_of_a_wide_clean_one():
    draw = np.random.default_rng(1)
    values = np.concatenate([draw.normal(0, 1, 5000), draw.normal(2.5, 0.1, 500), [8.0]])
    ordered = noise_probability(values)[np.argsort(values)]
    assert (np.diff(ordered) >= 0).all()


def test_scale_shift_order_and_one_outlier_change_little():
    values = two_bells()
    values = values[::4]
    expected = noise_probability(values)
    np.testing.assert_allclose(noise_probability(7 * values - 3), expected, atol=1e-6)
    np.testing.assert_allclose(noise_probability(values[::-1])[::-1], expected, atol=1e-6)
    np.testing.assert_allclose(noise_probability(np.append(values, 1e6))[:-1], expected, atol=0.05)


def test_losses_that_do_not_differ_are_clean():
    assert noise_probability(np.ones(5)).tolist() == [0.0] * 5


@pytest.mark.parametrize("losses", [[1.0], [1.0, float("nan")], [[1.0, 2.0]]])
def test_losses_without_a_mixture_are_refused(losses):
    with pytest.raises(ValueError, match="must be at least two finite numbers"):
        noise_probability(np.array(losses))

"""How probably the caption of an image is wrong for it, from how badly the pair fits among others.

NLIP (Huang et al., 2023, arXiv 2212.07086): with logits Z = scale * images @ texts.T over a batch of B pairs,

    loss_i = -1/2 (log softmax_row(Z)_ii + log softmax_column(Z)_ii)
    p(loss) = sum_k pi_k N(loss; mu_k, var_k),  k in {clean, noisy},  mu_noisy > mu_clean
    noise_i = p(noisy | loss_i)

The mixture is one-dimensional and fitted by expectation and maximisation over the whole corpus. Its variances are
free, and the wide noisy component would also win far below the clean mean: the best pairs would look noisiest. So the
probability is 0 up to the clean mean, and from there on never falls as the loss grows.

The order of the probabilities is more reliable than their level. Two Gaussians cannot hold three groups of losses: on
the micro world with 40 % noise, most of it bad and some far worse, one run in two took the far worse alone for noise
(recall 0.20 at 0.5, at a ROC-AUC of 0.995). Look at the losses before dropping by a threshold.

Batches of 1024, five shuffles, the starts, 100 iterations and the floor of the variance are ours; the paper's are not
published.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

ITERATIONS = 100
STARTS = (0.5, 0.7, 0.9, 0.95)
VARIANCE_FLOOR = 1e-6
OUTLIERS = 99.9
_SAME = 1 - 1e-6


@dataclass(frozen=True, slots=True)
class Mixture:
    """Two Gaussians over losses scaled to [0, 1]: shares, means and variances, each [2], clean first."""

    shares: np.ndarray
    means: np.ndarray
    variances: np.ndarray

    def noisy(self, scaled: np.ndarray) -> np.ndarray:
        """Return the posterior [n] of the noisy component, as the mixture has it."""
        return _responsibilities(self, scaled)[:, 1]


def pair_losses(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    *,
    scale: float,
    batch: int = 1024,
    shuffles: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """Return the contrastive loss of each pair, float64 [n], averaged over `shuffles` of the pairs into batches.

    The features are unit rows [n, d]. Every batch has the same size (n where there are fewer pairs), because a loss
    grows with it: the last is filled up with pairs that were measured before. A caption that equals the pair's own is
    no negative for it. Raises ValueError for fewer than two pairs and features that do not align.
    """
    n = len(image_features)
    if image_features.shape != text_features.shape or n < 2:
        raise ValueError(
            f"image features {tuple(image_features.shape)} and text features {tuple(text_features.shape)} "
            "must be of the same shape [n, d] with n at least 2"
        )
    size = min(batch, n)
    total = torch.zeros(n, dtype=torch.float64, device=image_features.device)
    for turn in range(shuffles):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed + turn)).to(image_features.device)
        for start in range(0, n, size):
            rows = order[start : start + size]
            filled = torch.cat([rows, order[: size - len(rows)]])
            total[rows] += _losses(image_features[filled], text_features[filled], scale)[: len(rows)]
    return (total / shuffles).cpu().numpy()


def noise_probability(losses: np.ndarray) -> np.ndarray:
    """Return the probability float64 [n] that each pair is noise, monotone in its loss [n].

    Losses are scaled to their 99.9th percentile, because one outlier would set the scale; those above it are cut, and
    left out of the fit, where they would be a component of their own. All probabilities are 0 where the losses do
    not differ. Raises ValueError for fewer than two losses and for losses that are not finite.
    """
    values = np.asarray(losses, np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"losses of shape {values.shape} must be at least two finite numbers [n]")
    low, high = values.min(), np.percentile(values, OUTLIERS)
    if high <= low:
        return np.zeros(len(values))
    scaled = (np.minimum(values, high) - low) / (high - low)
    mixture = fit_mixture(scaled[values <= high])
    raw = np.where(scaled <= mixture.means[0], 0.0, mixture.noisy(scaled))
    order = np.argsort(scaled, kind="stable")
    monotone = np.empty_like(raw)
    monotone[order] = np.maximum.accumulate(raw[order])
    return monotone


def fit_mixture(scaled: np.ndarray) -> Mixture:
    """Fit two Gaussians to values [n] in [0, 1]: the most likely of the fits that start from a split at each quantile.

    One start is not enough. Where noise is of two kinds, one far worse than the other, most starts end with the far one
    alone as noise.
    """
    fits = [_fit(scaled, scaled > np.quantile(scaled, quantile)) for quantile in STARTS]
    return max(fits, key=lambda mixture: _log_likelihood(mixture, scaled))


def _fit(scaled: np.ndarray, late: np.ndarray) -> Mixture:
    mixture = _maximise(scaled, np.stack([~late, late], axis=1).astype(np.float64))
    for _ in range(ITERATIONS):
        before, mixture = mixture, _maximise(scaled, _responsibilities(mixture, scaled))
        if np.abs(mixture.means - before.means).max() < 1e-9:
            break
    order = np.argsort(mixture.means, kind="stable")
    return Mixture(mixture.shares[order], mixture.means[order], mixture.variances[order])


def _maximise(scaled: np.ndarray, responsibilities: np.ndarray) -> Mixture:
    counts = responsibilities.sum(0) + 1e-12
    means = scaled @ responsibilities / counts
    variances = ((scaled[:, None] - means) ** 2 * responsibilities).sum(0) / counts
    return Mixture(counts / len(scaled), means, np.maximum(variances, VARIANCE_FLOOR))


def _responsibilities(mixture: Mixture, scaled: np.ndarray) -> np.ndarray:
    logs = _log_joint(mixture, scaled)
    likelihoods: np.ndarray = np.exp(logs - logs.max(1, keepdims=True))
    likelihoods /= likelihoods.sum(1, keepdims=True)
    return likelihoods


def _log_likelihood(mixture: Mixture, scaled: np.ndarray) -> float:
    return float(np.logaddexp.reduce(_log_joint(mixture, scaled), axis=1).sum())


def _log_joint(mixture: Mixture, scaled: np.ndarray) -> np.ndarray:
    """Return log(pi_k N(loss; mu_k, var_k)) [n, 2], without the constant."""
    distances = (scaled[:, None] - mixture.means) ** 2 / mixture.variances
    logs: np.ndarray = np.log(mixture.shares) - 0.5 * (np.log(mixture.variances) + distances)
    return logs


def _losses(images: torch.Tensor, texts: torch.Tensor, scale: float) -> torch.Tensor:
    logits = scale * images.float() @ texts.float().T  # [B, B]
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    same = (texts.float() @ texts.float().T > _SAME) & ~own
    logits = logits.masked_fill(same, -torch.inf)
    return -0.5 * (logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()).double()

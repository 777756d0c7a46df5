"""The probability that the caption of an image is wrong, from the pair's contrastive loss compared with others.

NLIP (Huang et al., 2023, arXiv 2212.07086): with logits Z = scale * images @ texts.T over a batch of B pairs,

    loss_i = -1/2 (log softmax_row(Z)_ii + log softmax_column(Z)_ii)        noise_i = p(noisy | loss_i)

NLIP fits two Gaussians to the losses and uses the posterior of the higher one. That always finds a noisy part, because
the losses of correct captions are skewed: on real CLIP features without any wrong caption it marked 20 to 71 % of the
pairs as noise. Here losses are compared with those of captions known to be wrong, from other images of the same corpus.
With f the density of the losses, h that of mismatched pairs, and F and H the shares of each above a loss t,

    pi = min_t F(t) / H(t), at most 1      noise_i = max over losses l <= loss_i of min(1, pi h(l) / f(l))

This is the local false discovery rate (Efron, 2004), with the share of noise pi estimated as in Storey (2002). If the
upper tail contains no pairs, pi is 0 and nothing is noise. Captions that are wrong in another way, such as boilerplate,
are found if their loss is as high as that of a mismatched pair. The thresholds t are the 0.05 to 0.75 quantiles of the
mismatched losses; densities use Gaussian kernels with Silverman's bandwidth. Batches of 1024 and five shuffles are our
choice; the paper does not state its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

TAILS = np.linspace(0.05, 0.75, 15)
BINS = 1024
_SAME = 1 - 1e-6


def pair_losses(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    *,
    scale: float,
    batch: int = 1024,
    shuffles: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """Return the contrastive loss of each pair, float64 [n], averaged over random batches.

    image_features, text_features: unit rows, [n, d].
    scale: the encoder's scale.
    batch: pairs per batch, at most n. All batches have this size, because the loss grows with it: the last is filled up
        with pairs from the start.
    shuffles, seed: how many times the pairs are shuffled into batches, and the seed.

    A caption equal to the pair's own is not a negative. Raises ValueError for fewer than two pairs and features that do
    not align.
    """
    _check(image_features, text_features)
    total = torch.zeros(len(image_features), dtype=torch.float64, device=image_features.device)
    for turn in range(shuffles):
        for rows, filled in _batches(image_features, batch, seed + turn):
            total[rows] += _losses(image_features[filled], text_features[filled], scale)[: len(rows)]
    return (total / shuffles).cpu().numpy()


def mismatched_losses(
    image_features: torch.Tensor, text_features: torch.Tensor, *, scale: float, batch: int = 1024, seed: int = 0
) -> np.ndarray:
    """Return the losses of images with the caption of another image, float64 [at most n].

    Each image gets the caption of the next image in its shuffled batch, and its own caption leaves the batch. Images
    that would get a caption equal to their own are left out. Parameters and errors are those of `pair_losses`.
    """
    _check(image_features, text_features)
    losses = [
        _swapped(image_features[filled], text_features[filled], scale, len(rows))
        for rows, filled in _batches(image_features, batch, seed)
    ]
    return torch.cat(losses).cpu().numpy()


def noise_probability(losses: np.ndarray, mismatched: np.ndarray) -> np.ndarray:
    """Return the probability that each pair is noise, float64 [n], monotone in its loss.

    losses: of the pairs, [n] (`pair_losses`).
    mismatched: of the same images with other captions, [m] (`mismatched_losses`); if empty, as where all captions are
        equal, nothing is noise.

    Densities are computed in 1024 bins. Raises ValueError for no loss and for losses that are not finite.
    """
    values, wrong = np.asarray(losses, np.float64), np.asarray(mismatched, np.float64)
    for column in (values, wrong):
        if column.ndim != 1 or not np.isfinite(column).all():
            raise ValueError(f"losses of shape {column.shape} must be finite numbers [n]")
    if not len(values):
        raise ValueError("there is no loss; give those of at least one pair")
    if not len(wrong) or wrong.min() == wrong.max():
        return np.zeros(len(values))
    share = noise_share(values, wrong)
    values = np.minimum(values, wrong.max())  # a loss above all wrong captions counts as the worst of them
    edges = np.linspace(min(values.min(), wrong.min()), wrong.max(), BINS + 1)
    width = _bandwidth(wrong, len(values))
    found, expected = (_density(column, edges, width) for column in (values, wrong))  # [BINS]
    odds = np.minimum(1, share * expected / np.maximum(found, np.finfo(float).tiny))
    probability: np.ndarray = np.interp(values, (edges[1:] + edges[:-1]) / 2, np.maximum.accumulate(odds))
    return probability


def noise_share(losses: np.ndarray, mismatched: np.ndarray) -> float:
    """Return pi, the share of noise among pairs with `losses` [n], from the upper tail of `mismatched` losses [m]."""
    tails = np.quantile(mismatched, TAILS)
    found, expected = (
        1 - np.searchsorted(np.sort(column), tails, "right") / len(column) for column in (losses, mismatched)
    )
    some = expected > 0
    return float(min(1.0, (found[some] / expected[some]).min(initial=1.0)))


def _bandwidth(values: np.ndarray, count: int) -> float:
    low, high = np.quantile(values, [0.25, 0.75])
    spread = min(float(values.std()), float(high - low) / 1.34) or float(values.std())
    return 1.06 * spread * float(count**-0.2)


def _density(values: np.ndarray, edges: np.ndarray, width: float) -> np.ndarray:
    """Return the mean of Gaussian kernels at the middle of each bin, up to a constant factor."""
    shares = np.histogram(values, edges)[0] / len(values)
    steps = np.arange(1 - BINS, BINS) * (edges[1] - edges[0])
    density: np.ndarray = np.convolve(shares, np.exp(-0.5 * (steps / width) ** 2))[BINS - 1 : 1 - BINS]
    return density


def _check(images: torch.Tensor, texts: torch.Tensor) -> None:
    if images.shape != texts.shape or len(images) < 2:
        raise ValueError(
            f"image features {tuple(images.shape)} and text features {tuple(texts.shape)} "
            "must be of the same shape [n, d] with n at least 2"
        )


def _batches(features: torch.Tensor, batch: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (rows, filled) of each shuffled batch: its new rows, and these filled up to the batch size."""
    size = min(batch, len(features))
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed)).to(features.device)
    for start in range(0, len(features), size):
        rows = order[start : start + size]
        yield rows, torch.cat([rows, order[: size - len(rows)]])


def _losses(images: torch.Tensor, texts: torch.Tensor, scale: float) -> torch.Tensor:
    logits = scale * images.float() @ texts.float().T  # [B, B]
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    same = (texts.float() @ texts.float().T > _SAME) & ~own  # [B, B] equal captions of other images
    logits = logits.masked_fill(same, -torch.inf)
    return -0.5 * (logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()).double()


def _swapped(images: torch.Tensor, texts: torch.Tensor, scale: float, count: int) -> torch.Tensor:
    """Return the losses of the first `count` images with the caption of the next image in the batch."""
    logits = (scale * images.float() @ texts.float().T).double()  # [B, B]
    same = texts.float() @ texts.float().T > _SAME
    row = torch.arange(len(logits), device=logits.device)
    following = row.roll(-1)
    value = logits[row, following]  # [B]
    # The image's own caption and the caption's own image (and equals) are correct pairs, so they are no negatives.
    others = (
        logits.masked_fill(same[following], -torch.inf),
        logits.T[following].masked_fill(same[following], -torch.inf),
    )
    losses = torch.zeros_like(value)
    for rivals in others:
        rivals[row, row] = -torch.inf
        losses += 0.5 * (torch.logaddexp(value, rivals.logsumexp(1)) - value)
    return losses[:count][~same[row, following][:count]]

"""Choice of settings for heads with a cache: on validation images, or by leaving out one support image at a time.

At scale 100, for which the settings are quoted, the heads score Z + alpha * P(beta) + gamma * Q. Each logit is linear
in a weight, so the weights at which an image is right form one interval, between the crossings of its class's line with
those of the other classes. A whole row of the grid therefore costs one pass over [n, c], and the counts are the same as
from trying every setting. Among the settings with the most correct images, the one with the lowest cross-entropy is
chosen (the published searches keep the first, which lies at a corner of the plateau), and of those that are equal to
six digits the one with the smallest weights, which is nearest to the texts.

Labels enter only as `Validation` or `Support`, so no test label can reach the search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

from rag_clip.classifiers.cache import Cache, evenly
from rag_clip.classifiers.evidence import check_fit, one_label, wide
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, Support, Validation

JUDGED_AT_MOST = 2000
TIED_AT_MOST = 500
VALUES_AT_ONCE = 2**18  # of logits; more leave the processor's cache
FAR = 1e30  # beyond any weight


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Images that settings are judged by: `features` [n, d], `targets` [n], zero-shot `logits` [n, c].

    `allowed` [n, m] is 0 where a support image must not vote for itself, and `share` [n, c] makes up for its vote.
    """

    features: torch.Tensor
    targets: torch.Tensor
    logits: torch.Tensor
    allowed: torch.Tensor
    share: torch.Tensor
    by: Literal["validation", "leave-one-out"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Settings, quoted for scale 100, how they were chosen, and their accuracy on the images that judged them."""

    alpha: float
    beta: float
    gamma: float = 0.0
    by: Literal["given", "default", "validation", "leave-one-out"] = "given"
    accuracy: float | None = None


@torch.no_grad()
def judged_images(zero_shot: ZeroShot, support: Support, validation: Validation | None) -> Judged | None:
    """Return the images that judge settings, or None if there are none and the fixed defaults must be used.

    Without validation they are the support images, each judged by the other images, whose votes are scaled up to the
    original number. Only shots qualify, because images that a classifier chose agree with it, and only if their class
    has another image; of many, `JUDGED_AT_MOST` evenly spaced ones. Raises ValueError if validation does not fit.
    """
    if validation is not None:
        targets = _checked(zero_shot, validation)
        features = wide(validation.features.pooled)
        logits, targets = zero_shot(Features(features)), targets.to(features.device)
        allowed = features.new_ones(len(features), len(support))
        return Judged(features, targets, logits, allowed, torch.ones_like(logits), "validation")
    targets, images = support.shares.argmax(1), support.shares.sum(0)
    left = images - support.shares  # [m, c], images of each class without this one
    rows = (left.gather(1, targets[:, None])[:, 0] > 1e-3).nonzero()[:, 0]
    if len(rows) == 0 or set(support.origin) != {"shot"}:
        return None
    rows = rows[evenly(len(rows), JUDGED_AT_MOST, rows.device)]
    features = wide(support.features[rows])
    allowed = features.new_ones(len(rows), len(support)).scatter_(1, rows[:, None], 0)
    share = torch.where(left > 1e-3, images / left.clamp(min=1e-3), 1.0)[rows].to(features)
    return Judged(features, targets[rows], zero_shot(Features(features)), allowed, share, "leave-one-out")


@torch.no_grad()
def choose(
    judged: Judged,
    cache: Cache,
    *,
    scale: float,
    alphas: Sequence[float],
    betas: Sequence[float],
    gammas: Sequence[float] = (0.0,),
    text: torch.Tensor | None = None,
) -> Choice:
    """Return the best setting of the grid.

    judged: the images that judge.
    cache: the cache of the support images.
    scale: the scale of the classifier.
    alphas: values to try, ascending, and so are `betas` and `gammas`.
    betas: values to try.
    gammas: values to try.
    text: affinities [n, m] through the texts, which gamma multiplies.
    """
    factor = scale / 100
    base = judged.logits / factor
    gaps = cache.cosines(judged.features) - 1  # [n, m]
    line = None if text is None else cache.count(text * judged.allowed, judged.share)

    def votes(beta: float) -> torch.Tensor:
        return cache.count((beta * gaps).exp_().mul_(judged.allowed), judged.share)

    def right(votes: torch.Tensor) -> torch.Tensor:  # [alphas, gammas]
        if line is None:
            return count_right(base, votes, judged.targets, alphas)[:, None]
        together = torch.split(votes.new_tensor(alphas)[:, None, None], max(1, VALUES_AT_ONCE // votes.numel()))
        return torch.cat([count_right(base + part * votes, line, judged.targets, gammas) for part in together])

    counts = torch.stack([right(votes(beta)) for beta in betas])  # [betas, alphas, gammas]
    tied = (counts == counts.max()).nonzero()
    tied = tied[evenly(len(tied), TIED_AT_MOST, tied.device)]
    ranked, last, count = [], -1, base
    for b, a, g in tied.tolist():
        if b != last:
            last, count = b, votes(betas[b])
        logits = base + alphas[a] * count + (0.0 if line is None else gammas[g] * line)
        loss = float(functional.cross_entropy(factor * logits, judged.targets))
        ranked.append((round(loss, 6), a, g, b))
    _, a, g, b = min(ranked)
    return Choice(alphas[a], betas[b], gammas[g], judged.by, int(counts.max()) / len(judged.targets))


def count_right(
    base: torch.Tensor, direction: torch.Tensor, targets: torch.Tensor, weights: Sequence[float]
) -> torch.Tensor:
    """Count the rows whose target no class beats in base + weight * direction, for each of w ascending weights.

    Returns int64 [..., w] for `base` [..., n, c], `direction` [n, c] and `targets` [n]. The target leads another class
    by lead + weight * gain, which is positive on one side of the weight -lead / gain.
    """
    grid = torch.tensor(weights, dtype=base.dtype, device=base.device)
    own = targets[:, None].expand(*base.shape[:-1], 1)
    lead = (base.gather(-1, own) - base).scatter_(-1, own, torch.inf)  # [..., n, c]
    gain = direction.gather(1, targets[:, None]) - direction  # [n, c]
    crossing = (-lead / gain).nan_to_num_(nan=-FAR).clamp_(-FAR, FAR)  # 0 / 0: the class always ties
    # adding 2 * FAR takes the bounds of the other side out of min and max; torch.where is ten times slower here
    side = torch.full_like(gain, FAR).copysign_(gain)
    low, high = (crossing + (side - FAR)).amax(-1), (crossing + (side + FAR)).amin(-1)  # [..., n]
    start, stop = torch.searchsorted(grid, low), torch.searchsorted(grid, high, right=True)
    some = (start < stop).long()
    changes = some.new_zeros(*base.shape[:-2], len(weights) + 1)
    return changes.scatter_add_(-1, start, some).scatter_add_(-1, stop, -some).cumsum(-1)[..., :-1]


def _checked(zero_shot: ZeroShot, validation: Validation) -> torch.Tensor:
    """Return the classes [n] of validation images, after checking that they fit the classifier."""
    targets = one_label("validation set", validation.targets)
    check_fit("validation set", validation.labels, validation.features.pooled, zero_shot)
    if not bool(validation.features.pooled.isfinite().all()):
        raise ValueError("a validation feature is not finite; encode its image again")
    return targets

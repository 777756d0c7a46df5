"""Choice of settings for heads with a cache: on validation images, else by leaving out one support image at a time.

For scale 100, as they are quoted, the heads score Z + alpha * P(beta) + gamma * Q. Along one weight each logit is a
line, so the weights at which an image is right are one interval, between its crossings with the lines of the other
classes: a whole row of the grid costs one pass over [n, c], and the counts are those of trying every setting.
Of the settings that get most right, the one of the lowest cross-entropy is chosen (the published searches keep the
first, which lies at a corner of the plateau).

Labels come in by `Validation` or `Support`, and by nothing else: the labels of a test set have no way in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

from rag_clip.classifiers.cache import Cache, evenly, wide
from rag_clip.classifiers.evidence import check_fit, one_label
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, Support, Validation

JUDGED_AT_MOST = 2000
TIED_AT_MOST = 500
FAR = 1e30  # beyond any weight


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Images that settings are judged by: `features` [n, d], `targets` [n], zero-shot `logits` [n, c].

    `allowed` [n, m] is 0 where a support image must not vote, on itself, and `share` [n, c] makes up for its vote.
    """

    features: torch.Tensor
    targets: torch.Tensor
    logits: torch.Tensor
    allowed: torch.Tensor
    share: torch.Tensor
    by: Literal["validation", "leave-one-out"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Settings, as quoted for scale 100, who chose them, and their accuracy on the images they were judged by."""

    alpha: float
    beta: float
    gamma: float = 0.0
    by: Literal["given", "default", "validation", "leave-one-out"] = "given"
    accuracy: float | None = None


@torch.no_grad()
def judged_images(zero_shot: ZeroShot, support: Support, validation: Validation | None) -> Judged | None:
    """Gather the images to judge settings by; None where there are none, and a fixed default must do.

    Without validation they are the support images, each judged by the others, the votes of its class made as many as
    they were. Only shots qualify, since images that a classifier chose agree with it, and only where their class has
    another image; of many, `JUDGED_AT_MOST` evenly spaced. Raises ValueError for validation that does not fit.
    """
    if validation is not None:
        targets = _checked(zero_shot, validation)
        features = wide(validation.features.pooled)
        logits, targets = zero_shot(Features(features)), targets.to(features.device)
        allowed = features.new_ones(len(features), len(support))
        return Judged(features, targets, logits, allowed, torch.ones_like(logits), "validation")
    targets, images = support.shares.argmax(1), support.shares.sum(0)
    left = images - support.shares  # [m, c]
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
    """Return the best setting of the grid; values ascend. `text` [n, m] are affinities through text, for gamma."""
    factor = scale / 100
    base = judged.logits / factor
    gaps = cache.cosines(judged.features) - 1
    line = None if text is None else cache.count(text * judged.allowed, judged.share)

    def votes(beta: float) -> torch.Tensor:
        return cache.count((beta * gaps).exp_().mul_(judged.allowed), judged.share)

    def right(votes: torch.Tensor) -> torch.Tensor:  # [alphas, gammas]
        if line is None:
            return count_right(base, votes, judged.targets, alphas)[:, None]
        return torch.stack([count_right(base + alpha * votes, line, judged.targets, gammas) for alpha in alphas])

    counts = torch.stack([right(votes(beta)) for beta in betas])
    tied = (counts == counts.max()).nonzero()
    tied = tied[evenly(len(tied), TIED_AT_MOST, tied.device)]
    best, lowest, last, count = (0, 0, 0), float("inf"), -1, base
    for b, a, g in tied.tolist():
        if b != last:
            last, count = b, votes(betas[b])
        logits = base + alphas[a] * count + (0.0 if line is None else gammas[g] * line)
        loss = float(functional.cross_entropy(factor * logits, judged.targets))
        if loss < lowest:
            best, lowest = (b, a, g), loss
    b, a, g = best
    return Choice(alphas[a], betas[b], gammas[g], judged.by, int(counts.max()) / len(judged.targets))


def count_right(
    base: torch.Tensor, direction: torch.Tensor, targets: torch.Tensor, weights: Sequence[float]
) -> torch.Tensor:
    """Count the rows whose target no class beats in base + weight * direction, both [n, c], for each ascending weight.

    The target is ahead of another class by lead + weight * gain, which holds on one side of the weight -lead / gain.
    """
    grid = torch.tensor(weights, dtype=base.dtype, device=base.device)
    own = targets[:, None]
    lead = (base.gather(1, own) - base).scatter_(1, own, torch.inf)
    gain = direction.gather(1, own) - direction
    crossing = (-lead / gain).nan_to_num_(nan=-FAR).clamp_(-FAR, FAR)  # 0 / 0 is a class that is never ahead
    # sums push what does not bind out of reach: torch.where takes ten times as long on masks without order
    side = torch.full_like(gain, FAR).copysign_(gain)
    low, high = (crossing + (side - FAR)).amax(1), (crossing + (side + FAR)).amin(1)
    start, stop = torch.searchsorted(grid, low), torch.searchsorted(grid, high, right=True)
    some = start < stop
    length = len(weights) + 1
    changes = torch.bincount(start[some], minlength=length) - torch.bincount(stop[some], minlength=length)
    return changes.cumsum(0)[:-1]


def _checked(zero_shot: ZeroShot, validation: Validation) -> torch.Tensor:
    """Return the classes [n] of images that fit the classifier."""
    targets = one_label("validation set", validation.targets)
    check_fit("validation set", validation.labels, validation.features.pooled, zero_shot)
    if not bool(validation.features.pooled.isfinite().all()):
        raise ValueError("a validation feature is not finite; encode its image again")
    return targets

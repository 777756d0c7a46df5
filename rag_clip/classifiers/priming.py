"""Neural Priming: each class weight is its text mixed with the mean of its images, by how much evidence there is.

Wallingford et al., NeurIPS 2023 (arXiv 2306.10191) mix w_k = normalise(a t_k + (1 - a) normalise(mu_k)) with one a for
all classes, 0.9 for retrieved images. With unequal counts that favours the classes with many images: images lie nearer
to any image than to any text, so a class is up to several tenths of a cosine better off for having images at all. Here
a comes from the counts, and that gap is taken off first:

    a_k = q / (q + n_k)      gap = mean_k normalise(mu_k) - mean_k t_k, over the classes with images
    w_k = normalise(a_k t_k + (1 - a_k) (normalise(mu_k) - gap))      logits = scale f W + bias

with the masses n_k and means mu_k of `evidence`. The text counts for q = 9 images, so that one image leaves it the
published 0.9. An image that is not a shot counts `discount` = 0.1: ten of them leave it 0.9. A class without images has
a_k = 1 and keeps its text; so do all classes as q grows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch.nn import functional

from rag_clip.classifiers.evidence import Evidence, cross_entropy, gather_evidence, hold_out
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, Support, Validation

TEXT_COUNT = 9.0
TEXT_COUNTS = (1.0, 2.0, 4.0, 9.0, 16.0, 32.0, 64.0)
PUBLISHED_SHARE = 0.9


def priming(
    zero_shot: ZeroShot,
    support: Support,
    *,
    text_count: float | None = None,
    discount: float = 0.1,
    mode: Literal["counted", "published"] = "counted",
    validation: Validation | None = None,
) -> ZeroShot:
    """Return a zero-shot classifier whose weights are primed by the support images.

    `text_count` is q; without it the best of `TEXT_COUNTS` by cross-entropy on `validation`, else 9. mode="published"
    mixes every class that has images by 0.9, whatever the counts, and leaves the gap in. Raises ValueError for a
    support or validation set that does not fit, a count that is not above zero, and a discount outside [0, 1].
    """
    if not 0 <= discount <= 1 or (text_count is not None and not text_count > 0):
        raise ValueError(
            f"text_count is {text_count} and discount {discount}; give a count above 0, a discount in 0..1"
        )
    evidence = gather_evidence(zero_shot, _discounted(support, discount))
    centroids = functional.normalize(evidence.means, dim=1)
    if mode == "published":
        return _mixed(zero_shot, evidence, torch.full_like(evidence.mass, PUBLISHED_SHARE), centroids)
    there = evidence.present.double()[:, None]
    gap = (there * (centroids - evidence.text)).sum(0) / there.sum().clamp(min=1)
    aligned = centroids - gap
    if text_count is not None or validation is None:
        return _mixed(zero_shot, evidence, _shares(evidence, text_count or TEXT_COUNT), aligned)
    held = hold_out(zero_shot, validation, evidence.present)
    primed = [_mixed(zero_shot, evidence, _shares(evidence, count), aligned) for count in TEXT_COUNTS]
    losses = [cross_entropy(classifier(Features(held.images)), held.targets) for classifier in primed]
    return primed[losses.index(min(losses))]


def _shares(evidence: Evidence, text_count: float) -> torch.Tensor:
    return text_count / (text_count + evidence.mass)


def _mixed(zero_shot: ZeroShot, evidence: Evidence, shares: torch.Tensor, centroids: torch.Tensor) -> ZeroShot:
    text_shares = shares[:, None]
    mixed = functional.normalize(text_shares * evidence.text + (1 - text_shares) * centroids, dim=1)
    weights = torch.where(evidence.present[:, None], mixed, evidence.text)
    return replace(zero_shot, weights=weights.to(zero_shot.weights))


def _discounted(support: Support, discount: float) -> Support:
    counts = [1.0 if origin == "shot" else discount for origin in support.origin]
    return replace(support, relevance=support.relevance * torch.tensor(counts).to(support.relevance))

"""The cache that Tip-Adapter and TIP-X share: support images as keys, and their classes as votes.

    P = A V        A [n, m] affinities of queries to keys, V [m, c] votes

As published (Zhang et al., ECCV 2022, arXiv 2207.09519), V is one-hot and P a sum: a class with ten images has ten
times the votes of a class with one, and a class without images loses to classes whose images are unlike the query.
"balanced" is our variant; it is the same if all classes have equally many images. It divides the votes of a class by
its number of images and multiplies them by the mean number. If some classes have no images, their text logits stay, and
images decide among the others, which together keep the probability that the text gives them (see evidence). While
settings are chosen, the mean over those others is subtracted from their votes. Relevance multiplies an image's votes in
both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from rag_clip.classifiers.evidence import among, check_fit, one_label
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Support

Mode = Literal["balanced", "published"]


@dataclass(frozen=True, slots=True, eq=False)
class Cache:
    """Keys [m, d] and votes [m, c] in float32; if some classes have no votes, `relative` bool [c] marks the others."""

    keys: torch.Tensor
    votes: torch.Tensor
    relative: torch.Tensor | None = None

    def cosines(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the cosines [n, m] of unit features [n, d] to the keys."""
        return pooled @ self.keys.to(pooled).T

    def count(self, affinities: torch.Tensor, share: torch.Tensor | float = 1.0) -> torch.Tensor:
        """Return the votes [n, c] for queries with affinities [n, m]; `share` [n, c] multiplies before centring."""
        votes = (affinities @ self.votes.to(affinities)) * share
        if self.relative is None:
            return votes
        voting = self.relative.to(affinities)
        return (votes - (votes @ voting)[:, None] / voting.sum()) * voting

    def decide(self, votes: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Add votes to the logits `text` [n, c], among the classes that have votes if some have none (see evidence)."""
        logits = text + votes
        return logits if self.relative is None else among(logits, text, self.relative.to(votes.device))


@torch.no_grad()
def build_cache(zero_shot: ZeroShot, support: Support, *, mode: Mode = "balanced") -> Cache:
    """Build the cache of a support set.

    Raises ValueError if its classes or width differ from those of the classifier, and for images with several labels.
    """
    one_label("support set", support.targets)
    check_fit("support set", support.labels, support.features, zero_shot)
    targets = support.shares.float()
    votes = support.relevance.float()[:, None] * targets
    if mode == "published":
        return Cache(support.features.float(), votes)
    images, voting = targets.sum(0), votes.sum(0) > 0
    if not bool(voting.any()):
        return Cache(support.features.float(), votes)
    # the clamp keeps a class with less than one image in total (soft labels) from voting as a whole image
    votes = votes * (images[voting].mean() / images.clamp(min=1))
    return Cache(support.features.float(), votes, None if bool(voting.all()) else voting)


def affinities_of(cosines: torch.Tensor, beta: float) -> torch.Tensor:
    """Return exp(-beta (1 - cosines)) [n, m]."""
    return (cosines - 1).mul_(beta).exp_()


def evenly(count: int, at_most: int, device: torch.device) -> torch.Tensor:
    """Return up to `at_most` row numbers of `count`, evenly spaced."""
    return torch.linspace(0, count - 1, min(count, at_most), dtype=torch.float64, device=device).round().long()

"""Neural Priming: each class weight mixes its text with the mean of its images, in proportion to the evidence.

Wallingford et al., NeurIPS 2023 (arXiv 2306.10191) mix w_k = normalise(a t_k + (1 - a) normalise(mu_k)) with one a for
all classes, 0.9 for retrieved images. If classes have different numbers of images, that favours some classes: any image
is closer to images than to texts, and images separate classes more than texts do. Here the mixture depends on the
counts, and both effects are removed:

    c_k = mu_k / sqrt(s_k)                                      w_k = t + (q (t_k - t) + n_k (c_k - c)) / (q + n_k / r)

with the masses n_k and means mu_k of `evidence`, and t and c the means of t_k and c_k over the classes with images. s_k
is the mean cosine of two images of class k, shrunk to the mean over all classes as if by one more pair; dividing by it
makes the length of c_k, and so the cosine of another image to it, independent of n_k. r is the ratio of how much an
image favours its own class in the texts to how much it does so in the c_k, so that a class gains equally on its own
images whatever its count.

The text counts as q = 9 images, so that with one image it keeps the published share of 0.9. An image that is not a shot
counts `discount` = 0.1, so that ten of them also leave the text 0.9. A class without images keeps its text, and so do
all classes as q grows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch.nn import functional

from rag_clip.classifiers.evidence import Evidence, cross_entropy, gather_evidence, hold_out
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support, Validation
from rag_clip.progress import Report, silent
from rag_clip.protocols import Encoder

TEXT_COUNT = 9.0
TEXT_COUNTS = (1.0, 2.0, 4.0, 9.0, 16.0, 32.0, 64.0)
PUBLISHED_SHARE = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Primed:
    """A linear classifier with `weights` [c, d] instead of those of `zero_shot`; `text_count` is the q used."""

    zero_shot: ZeroShot
    weights: torch.Tensor
    text_count: float

    @property
    def labels(self) -> LabelSet:
        """The c classes."""
        return self.zero_shot.labels

    def __call__(self, features: Features) -> torch.Tensor:
        """Return logits [n, c], on the device and in the dtype of `features.pooled` [n, d]."""
        return replace(self.zero_shot, weights=self.weights)(features)


@dataclass(frozen=True, slots=True)
class PrimingSettings:
    """`text_count` is q; if None, the value of `TEXT_COUNTS` with the lowest cross-entropy on validation images, else
    9.

    An image that is not a shot counts `discount`; mode="published" mixes every class that has images with a = 0.9.
    Raises ValueError if the count is not above zero, or the discount is outside [0, 1].
    """

    text_count: float | None = None
    discount: float = 0.1
    mode: Literal["counted", "published"] = "counted"

    def __post_init__(self) -> None:
        if not 0 <= self.discount <= 1 or (self.text_count is not None and not self.text_count > 0):
            raise ValueError(
                f"text_count is {self.text_count} and discount {self.discount}; give a count above 0, a discount in "
                "0..1"
            )

    @torch.no_grad()
    def build(
        self,
        zero_shot: ZeroShot,
        support: Support,
        *,
        validation: Validation | None = None,
        encoder: Encoder | None = None,
        report: Report = silent,
    ) -> Primed:
        """Mix the text weights with the support images.

        Raises ValueError if support or validation do not fit the classifier.
        """
        evidence = gather_evidence(zero_shot, _discounted(support, self.discount))
        if self.mode == "published":
            centroids = functional.normalize(evidence.means, dim=1)
            mixed = functional.normalize(PUBLISHED_SHARE * evidence.text + (1 - PUBLISHED_SHARE) * centroids, dim=1)
            weights = torch.where(evidence.present[:, None], mixed, evidence.text)
            return Primed(zero_shot, weights.to(zero_shot.weights), TEXT_COUNT)
        if self.text_count is not None or validation is None:
            return _prime(zero_shot, evidence, self.text_count or TEXT_COUNT)
        judged = hold_out(zero_shot, validation, evidence.present)
        primed = [_prime(zero_shot, evidence, count) for count in TEXT_COUNTS]
        losses = [cross_entropy(classifier(Features(judged.images)), judged.targets) for classifier in primed]
        return primed[losses.index(min(losses))]


def _prime(zero_shot: ZeroShot, evidence: Evidence, text_count: float) -> Primed:
    present = evidence.present
    if int(present.sum()) < 2:
        return Primed(zero_shot, zero_shot.weights, text_count)
    mass, means, text = evidence.mass[present, None], evidence.means[present], evidence.text[present]
    squares = evidence.shares.square().sum(0)[present, None]  # [h, 1] for the h classes with images
    pairs = mass**2 - squares  # a sum over pairs is the square of the sum less the sum of squares
    cosines = (mass * means).square().sum(1, keepdim=True) - squares  # [h, 1], summed over the pairs of a class
    pooled = (cosines.sum() / pairs.sum()).clamp(0.01, 1) if pairs.sum() > 1e-6 else torch.ones_like(mass[0])
    centroids = means / ((cosines + pooled) / (pairs + 1)).clamp(min=0.01).sqrt()  # [h, d]
    in_text = _advantage(means @ text.T)
    in_images = pooled.sqrt() * _advantage((centroids @ centroids.T).fill_diagonal_(1))
    ratio = (in_text / in_images.clamp(min=1e-6)).clamp(0.01, 1)
    moved = text_count * (text - text.mean(0)) + mass * (centroids - centroids.mean(0))
    weights = evidence.text.clone()
    weights[present] = text.mean(0) + moved / (text_count + mass / ratio)
    return Primed(zero_shot, weights.to(zero_shot.weights), text_count)


def _advantage(cosines: torch.Tensor) -> torch.Tensor:
    """Return by how much the diagonal of cosines [c, c] exceeds the other entries, on average."""
    own = cosines.diagonal().mean()
    return own - (cosines.sum() - cosines.diagonal().sum()) / (cosines.numel() - len(cosines))


def _discounted(support: Support, discount: float) -> Support:
    counts = [1.0 if origin == "shot" else discount for origin in support.origin]
    return replace(support, relevance=support.relevance * torch.tensor(counts).to(support.relevance))

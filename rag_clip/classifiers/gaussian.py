"""Gaussian discriminant analysis on the support images, added to the text: closed form, linear, nothing trained.

Wang et al., ICLR 2024 (arXiv 2402.04087): all classes share one covariance, estimated from few images with the
precision matrix of a Bayes ridge. With the masses n_k and means mu_k of `evidence`, x_s centred on its class, m images
and width d:

    S = sum_sk r_s y_sk (x_s - mu_k)(x_s - mu_k)'    P = d ((m - 1) C + tr(C) I)^-1    C = S / sum(r) * m / (m - 1)
    g_k(f) = f P mu_k - mu_k P mu_k / 2              logits = zero-shot + alpha * scale / 100 * (g_k - mean_k g_k)

The mean is over the classes with images; the sum decides only among them (`evidence.among`). The text counts as
`text_samples` = 1 image of each class that has images, as in TIMO (Li et al., AAAI 2025, arXiv 2412.11375): it is the
text's weight, shifted by the gap between the means of images and texts. Without it, one shot per class would have no
covariance.

alpha is quoted for scale 100. The paper chooses it on validation images from 1e-4 to 1e2. Here it minimises the
cross-entropy, at the best temperature, over the images that may judge: validation images, and each shot scored by the
discriminant fitted without it, which is exact and needs no refit:

    -(x - mu_k')' P' (x - mu_k') / 2,  mu_k' and P' without x:  x - mu_k' = z_k n_k / (n_k - w_k),  z_k = x - mu_k,
    S' = S - sum_k w_k n_k / (n_k - w_k) z_k z_k'                                       (Woodbury, w_k = r y_k)

If no image may judge, alpha is 0.1, the geometric middle of the paper's range.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rag_clip.classifiers.evidence import (
    Discriminant,
    Evidence,
    among,
    centre,
    cross_entropy,
    gather_evidence,
    hold_out,
)
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Support, Validation
from rag_clip.progress import Report, silent
from rag_clip.protocols import Encoder

ALPHA = 0.1
ALPHAS = tuple(10 ** (step / 4) for step in range(-16, 9))


@dataclass(frozen=True, slots=True, eq=False)
class Gaussian(Discriminant):
    """A linear discriminant whose weight beside the texts is `alpha`."""

    alpha: float


@dataclass(frozen=True, slots=True)
class GaussianSettings:
    """The weight `alpha`, chosen if None, and how many images the text of a class counts as.

    Raises ValueError for a negative alpha or number of texts.
    """

    alpha: float | None = None
    text_samples: float = 1.0

    def __post_init__(self) -> None:
        if self.text_samples < 0 or (self.alpha is not None and self.alpha < 0):
            raise ValueError(f"alpha is {self.alpha} and text_samples {self.text_samples}; give numbers from 0")

    @torch.no_grad()
    def build(
        self,
        zero_shot: ZeroShot,
        support: Support,
        *,
        validation: Validation | None = None,
        encoder: Encoder | None = None,
        report: Report = silent,
    ) -> Gaussian:
        """Fit the discriminant to the support images.

        Images that all equal the mean of their class, without text samples, have no covariance: nothing is added to
        zero-shot. Raises ValueError if support or validation do not fit the classifier.
        """
        evidence = gather_evidence(zero_shot, support, text_samples=self.text_samples)
        fitted = _fit(evidence)
        weights = fitted.means @ fitted.precision()  # [c, d]
        offsets = -(weights * fitted.means).sum(1) / 2  # [c]
        alpha = self.alpha
        if alpha is None:
            alpha = _chosen(zero_shot, evidence, fitted, weights, offsets, validation)
        factor = alpha * zero_shot.scale / 100
        present = evidence.present
        weights, offsets = factor * centre(weights.T, present).T, factor * centre(offsets[None], present)[0]
        return Gaussian(zero_shot, weights, offsets, present, alpha)


@dataclass(frozen=True, slots=True, eq=False)
class _Fitted:
    """Class `mass` [c] and `means` [c, d], their `scatter` S [d, d], the `count` m of samples and sum of `weights`."""

    mass: torch.Tensor
    means: torch.Tensor
    scatter: torch.Tensor
    count: int
    weight: float

    def precision(self) -> torch.Tensor:
        """Return P [d, d]; zero where there is no scatter."""
        width = len(self.scatter)
        ridge = self.scatter.trace() / max(self.count - 1, 1)
        if float(ridge) < 1e-12:
            return torch.zeros_like(self.scatter)
        identity = torch.eye(width).to(self.scatter)
        inverse: torch.Tensor = torch.linalg.inv(self.scatter + ridge * identity)
        return width * self.weight / self.count * inverse


def _fit(evidence: Evidence) -> _Fitted:
    images, shares, mass, means = evidence.images, evidence.shares, evidence.mass, evidence.means
    scatter = (images * shares.sum(1, keepdim=True)).T @ images - (means * mass[:, None]).T @ means  # [d, d]
    return _Fitted(mass, means, (scatter + scatter.T) / 2, len(images), float(mass.sum()))


def _chosen(
    zero_shot: ZeroShot,
    evidence: Evidence,
    fitted: _Fitted,
    weights: torch.Tensor,
    offsets: torch.Tensor,
    validation: Validation | None,
) -> float:
    judges = evidence.judges
    logits, targets = [evidence.logits[judges]], [evidence.shares[judges]]
    scores = [_left_out(evidence.images[judges], evidence.shares[judges], fitted)]
    if validation is not None:
        judged = hold_out(zero_shot, validation, evidence.present)
        logits.append(judged.logits)
        targets.append(judged.targets)
        scores.append(judged.images @ weights.T + offsets)
    if not sum(map(len, targets)):
        return ALPHA
    text, added = torch.cat(logits), zero_shot.scale / 100 * centre(torch.cat(scores), evidence.present)
    blends = (among(text + alpha * added, text, evidence.present) for alpha in ALPHAS)
    losses = [cross_entropy(blend, torch.cat(targets)) for blend in blends]
    return ALPHAS[losses.index(min(losses))]


def _left_out(images: torch.Tensor, shares: torch.Tensor, fitted: _Fitted) -> torch.Tensor:
    """Score images [j, d] that count `shares` [j, c] by the discriminant fitted without them, one at a time.

    Returns [j, c], up to a constant per image.
    """
    if not len(images):
        return torch.zeros_like(shares)
    values, basis = torch.linalg.eigh(fitted.scatter)
    images, means = images @ basis, fitted.means @ basis  # [j, d], [c, d]; S is diagonal in this basis
    left = torch.where(shares > 0, fitted.mass - shares, 1.0)
    removed = shares * fitted.mass / left  # [j, c], the weight of z_k z_k' in S - S'
    lengths = (images**2).sum(1, keepdim=True) - 2 * images @ means.T + (means**2).sum(1)  # [j, c], |z_k|^2
    ridge = (fitted.scatter.trace() - (removed * lengths).sum(1)) / max(fitted.count - 2, 1)
    inverse = 1 / (values.clamp(min=0) + ridge.clamp(min=1e-12)[:, None])  # [j, d], the inverse before the removal
    own, mixed = (images**2 * inverse).sum(1, keepdim=True), (images * inverse) @ means.T
    distances = own - 2 * mixed + inverse @ (means**2).T  # [j, c], with S in place of S'
    weight, classes = removed.topk(int((removed > 0).sum(1).max()), dim=1)  # the l classes that an image counts for
    products = torch.stack([(inverse * means[slot]) @ means.T for slot in classes.T], dim=2)  # [j, c, l]
    across = (own - mixed)[:, :, None] - mixed.gather(1, classes)[:, None] + products
    across = across * weight.sqrt()[:, None]  # [j, c, l]
    core = across.gather(1, classes[:, :, None].expand(-1, -1, classes.shape[1]))  # [j, l, l]
    core = core * weight.sqrt()[:, :, None]
    solved = torch.linalg.solve(torch.eye(classes.shape[1]).to(core) - core, across.transpose(1, 2))  # [j, l, c]
    distances = distances + (across * solved.transpose(1, 2)).sum(2)
    scale = images.shape[1] * (fitted.weight - shares.sum(1)) / (fitted.count - 1)
    scores: torch.Tensor = -0.5 * scale[:, None] * (1 + shares / left) ** 2 * distances
    return scores

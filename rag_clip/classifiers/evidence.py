"""What a support set tells about each class, for heads in closed form: masses, means, and which images may judge.

A support image s has relevance r_s and shares y_sk of the classes: it counts r_s y_sk for class k. Class k has the mass
n_k = sum_s r_s y_sk and the mean mu_k = sum_s r_s y_sk x_s / n_k. Everything is float64, on the device of the support.

If some classes have no image, adding values to the logits of the other classes alone would favour one of the two groups
by the size of those values. So images decide only among the classes that have images (`among`), and the text decides
how likely that group is as a whole,

    logits_k = z_k + log sum_present exp(zero-shot_j) - log sum_present exp(z_j)

The other classes keep their text logit and its probability.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, SeveralLabels, Support, Targets, Validation
from rag_clip.display import counted

TEMPERATURES = tuple(10 ** (step / 4) for step in range(-8, 3))


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """The support `images` [m, d], how much they count for each class, `shares` [m, c] (r_s y_sk), and the text's view.

    `mass` [c], `means` [c, d] (zero for a class without mass), `present` bool [c], `text` [c, d] and the zero-shot
    `logits` [m, c]. `judges` bool [m] marks the images that may judge settings: shots whose every class has another
    image. Retrieved and synthesised images never judge: the text found or made them, so they agree with it.
    """

    images: torch.Tensor
    shares: torch.Tensor
    mass: torch.Tensor
    means: torch.Tensor
    present: torch.Tensor
    text: torch.Tensor
    logits: torch.Tensor
    judges: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Validation images as float64: `images` [n, d], `targets` [n, c] of ones and zeros, zero-shot `logits` [n, c]."""

    images: torch.Tensor
    targets: torch.Tensor
    logits: torch.Tensor


def gather_evidence(
    zero_shot: ZeroShot, support: Support, *, text_samples: float = 0.0, several: bool = False
) -> Evidence:
    """Count the support images of each class; images with zero relevance are left out.

    With `text_samples`, the text of each class that has images counts as that many more images, after it is shifted by
    the gap between the means of images and texts; these samples do not judge. Raises ValueError if the classes or the
    width differ from those of the zero-shot classifier, and for images with several labels unless `several` allows
    them.
    """
    check_fit("support set", support.labels, support.features, zero_shot)
    if not several:
        one_label("support set", support.targets)
    counted = support.relevance > 0
    images = support.features[counted].double()
    shares = (support.shares * support.relevance[:, None])[counted].to(images)
    mass, means = _count(images, shares)  # [c], [c, d]
    shots = shots_of(support)[counted]
    judges = shots & ((mass - shares > 1e-6 * mass) | (shares == 0)).all(1)
    present, text = mass > 0, zero_shot.weights.to(images)
    if text_samples:
        moved = (text + (means - text)[present].mean(0))[present]  # [h, d] for the h classes with images
        images = torch.cat([images, moved])
        shares = torch.cat([shares, text_samples * torch.eye(len(present)).to(shares)[present]])
        judges = torch.cat([judges, torch.zeros(len(moved)).to(judges)])
        mass, means = _count(images, shares)
    return Evidence(images, shares, mass, means, present, text, zero_shot(Features(images)), judges)


def _count(images: torch.Tensor, shares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mass = shares.sum(0)
    return mass, shares.T @ images / mass.clamp(min=torch.finfo(mass.dtype).tiny)[:, None]


def hold_out(zero_shot: ZeroShot, validation: Validation, present: torch.Tensor, *, several: bool = False) -> Held:
    """Return the validation images of the classes `present`, bool [c]; the other classes keep their text logit anyway.

    Raises ValueError if the classes or the width differ from those of the zero-shot classifier, and for images with
    several labels unless `several` allows them.
    """
    check_fit("validation set", validation.labels, validation.features.pooled, zero_shot)
    if several and isinstance(validation.targets, SeveralLabels):
        targets = validation.targets.marks.to(present.device)
    else:
        classes = one_label("validation set", validation.targets).to(present.device)
        targets = functional.one_hot(classes, len(present)).bool()
    kept = (targets & present).any(1)
    images = validation.features.pooled.to(present.device)[kept].double()
    return Held(images, targets[kept].to(images), zero_shot(Features(images)))


def one_label(what: str, targets: Targets) -> torch.Tensor:
    """Return targets with one label per image; raises ValueError if images may have several labels."""
    if isinstance(targets, SeveralLabels):
        raise ValueError(
            f"the {what} has images with several labels, and this needs one label per image; linear_probe learns "
            "from several"
        )
    return targets


def centre(scores: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Subtract from scores [n, c] their mean over the classes `present` [c], and set the other classes to zero."""
    mean = (scores * present).sum(1, keepdim=True) / present.sum().clamp(min=1)  # [n, 1]
    return torch.where(present, scores - mean, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Discriminant:
    """Zero-shot logits plus x @ weights.T + offsets, with weights [c, d] and offsets [c], which include their weight.

    It decides among the classes `present`, bool [c].
    """

    zero_shot: ZeroShot
    weights: torch.Tensor
    offsets: torch.Tensor
    present: torch.Tensor

    @property
    def labels(self) -> LabelSet:
        """The c classes."""
        return self.zero_shot.labels

    def __call__(self, features: Features) -> torch.Tensor:
        """Return logits [n, c], on the device and in the dtype of `features.pooled` [n, d]."""
        images = wide(features.pooled)
        text = self.zero_shot(Features(images))
        logits = text + images @ self.weights.to(images).T + self.offsets.to(images)
        return among(logits, text, self.present.to(images.device)).to(features.pooled.dtype)


def among(logits: torch.Tensor, text: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Let `logits` [n, c] decide among the classes `present` [c], and `text` [n, c] decide everything else."""
    total, inside = (torch.where(present, each, -torch.inf).logsumexp(1, keepdim=True) for each in (text, logits))
    return torch.where(present, logits + total - inside, text)


def shots_of(support: Support) -> torch.Tensor:
    """Return which support images are labelled and drawn by chance, bool [m], so that they may judge."""
    shots = [origin == "shot" for origin in support.origin]
    return torch.tensor(shots, dtype=torch.bool, device=support.features.device)


def found_of(support: Support) -> torch.Tensor:
    """Return which support images were found or painted for a text, bool [m].

    The others are labelled, or errors that a person put right, which judge nothing: any head would win on them.
    """
    found = [origin not in ("shot", "corrected") for origin in support.origin]
    return torch.tensor(found, dtype=torch.bool, device=support.features.device)


def wide(features: torch.Tensor) -> torch.Tensor:
    """Return features in float32 or wider, as exponentials and divergences require."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the cross-entropy of logits [n, c] to targets [n, c], at the temperature that gives the lowest value.

    The temperature is left free because settings are compared by how they rank classes, not by their confidence.
    """
    return min(float(functional.cross_entropy(step * logits, targets)) for step in TEMPERATURES)


def check_fit(what: str, labels: LabelSet, features: torch.Tensor, zero_shot: ZeroShot) -> None:
    """Raise ValueError if images have other classes than the classifier, or features [m, d] of another width."""
    if labels.names != zero_shot.labels.names:
        raise ValueError(
            f"the {what} has {counted(len(labels), 'class')} other than the {len(zero_shot.labels)} of the "
            "prompts, or another order; make it for the same label set"
        )
    if features.shape[1] != zero_shot.weights.shape[1]:
        raise ValueError(
            f"the {what} is {features.shape[1]} wide, the prompts {zero_shot.weights.shape[1]}; "
            "encode both with the same encoder"
        )

"""Refinement: the unlabelled images of a file as evidence of its classes, beside the logits of any classifier.

The method is ours. With logits l_i [c] and features x_i of n images, unit class texts T, 1/50 of the log-likelihoods
G_i = w x_i + b, less their mean over the classes, of `refinement.evidence`, and J = 4 folds by a hash of the image:

    z   = softmax(l)
    six times, for the images of each fold f, with sums over those of the others, so that none is its own evidence:
        gamma_i = 1 - entropy(z_i) / log c                  unsure images count less
        E       = sum_i gamma_i (z_i, z_i x_i, x_i^2) + the evidence that is given
        u       = sum_i z_i ;   rho = argmax DirichletMultinomial(u | rho), by a log-normal prior around 3
        prior_k = 1/2 / (1 + rho) log( c (u_k + rho) / (sum u + c rho) )
        a       = 1/50 N / (N + 2 c),  N = sum_k n_k of E
        z_i     = softmax(l_i + a G_i + prior)

A class that no image shows falls back to its text. rho is large where all classes occur alike, and turns the prior
off. The result is linear in x, so a sample of a large file gives the classifier for all of it: every image, sampled or
not, is classified by the evidence of the folds that are not its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from rag_clip.data import Features, LabelSet
from rag_clip.protocols import Classifier
from rag_clip.refinement.evidence import Evidence, Likelihoods, evidence_of, solve
from rag_clip.refinement.sampling import row_hashes, take_images

FOLDS = 4
ROUNDS = 6
LIKELIHOOD_WEIGHT = 1 / 50
FEWEST, ENOUGH = 16, 32
ENOUGH_A_CLASS, USUALLY_PREDICTED = 10, 0.8
LEAST_SAMPLE, SAMPLE_A_CLASS = 50_000, 50
BLOCK_VALUES = 2**22
CONCENTRATIONS = 10 ** torch.arange(-2, 3.25, 0.25, dtype=torch.float64)
USUAL_CONCENTRATION = 3.0


@dataclass(frozen=True, slots=True)
class RefinementFacts:
    """What a refinement was made of, as provenance has it.

    images: how many images of the file.
    weight: a of the log-likelihoods, the mean of the folds.
    concentration: rho of the classes, the median of the folds: small where few of the classes occur.
    changed: share of these images whose label changed.
    predicted: how many classes are the label of one.
    """

    images: int
    weight: float
    concentration: float
    changed: float
    predicted: int

    def warning(self, classes: int) -> str:
        """Return what a user should know, or nothing: texts of classes that are never predicted may be wrong."""
        if self.images < ENOUGH_A_CLASS * classes or self.predicted >= USUALLY_PREDICTED * classes:
            return ""
        return (
            f"only {self.predicted} of {classes} classes are ever predicted; if the file should show more of them, "
            "their texts may be wrong, and refinement makes such errors surer: compare label_alone, or do not refine"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Refined:
    """A classifier with the evidence of a file beside it.

    alone: the classifier of each image alone.
    weights, biases: by fold, what is added to the logits of an image x of another fold: x @ weights.T + biases, float32
        [J, c, d] and [J, c].
    facts: what they were made of.
    """

    alone: Classifier
    weights: torch.Tensor
    biases: torch.Tensor
    facts: RefinementFacts

    @property
    def labels(self) -> LabelSet:
        """The classes of the classifier."""
        return self.alone.labels

    def __call__(self, features: Features) -> torch.Tensor:
        """Return refined logits [n, c]."""
        return self.alone(features) + self.added(features.pooled)

    def added(self, features: torch.Tensor) -> torch.Tensor:
        """Return what is added to the logits of images with unit features [n, d], [n, c]."""
        added = torch.empty(len(features), self.biases.shape[1], dtype=features.dtype, device=features.device)
        folds = row_hashes(features) % FOLDS
        for fold, (weights, biases) in enumerate(zip(self.weights.to(features), self.biases.to(features), strict=True)):
            rows = (folds == fold).nonzero()[:, 0]
            added[rows] = features[rows] @ weights.T + biases
        return added


def images_to_refine(classes: int) -> int:
    """Return how many images of a file are sampled as evidence of so many classes."""
    return max(LEAST_SAMPLE, SAMPLE_A_CLASS * classes)


@torch.no_grad()
def refine(classifier: Classifier, images: Features, texts: torch.Tensor, *, beside: Evidence | None = None) -> Refined:
    """Return a classifier that is refined by images without labels.

    classifier: of texts alone, or with any head; its logits are at the scale of the encoder.
    images: unit features [n, d] of the file, or of a sample of it, and what else the classifier needs.
    texts: class texts, [c, d]; they are normalised.
    beside: evidence of other sources, such as labelled images.

    Below 16 images, and with a single class, nothing is added; from there to 32 images what is added grows to its full
    size. Sums are in float64; memory holds the logits of a block of images.
    """
    x = images.pooled
    count, classes, device = len(x), len(texts), x.device
    anchors = torch.nn.functional.normalize(texts.to(device).double(), dim=-1)
    weights = torch.zeros(FOLDS, classes, x.shape[1], dtype=torch.float64, device=device)
    biases, rates, spreads = weights[..., 0].clone(), [0.0], [math.inf]
    trusted = 1.0 if beside is not None else min(max((count - FEWEST) / (ENOUGH - FEWEST), 0.0), 1.0)
    refined = Refined(classifier, weights, biases, RefinementFacts(count, 0.0, math.inf, 0.0, 0))
    for _ in range(ROUNDS if classes > 1 and trusted else 0):
        parts, seen = _evidence_of_folds(refined, images)
        everything = sum(parts[1:], parts[0] if beside is None else parts[0] + beside)
        weights, biases, rates, spreads = torch.empty_like(weights), torch.empty_like(biases), [], []
        for fold, part in enumerate(parts):
            evidence, others = everything - part, seen.sum(0) - seen[fold]
            found, number = _centred(solve(evidence, anchors)), float(evidence.counts.sum())
            rates.append(LIKELIHOOD_WEIGHT * number / (number + 2 * classes))
            spreads.append(concentration_of(others))
            weights[fold] = rates[-1] * found.weights
            biases[fold] = rates[-1] * found.biases + prior(others, spreads[-1])
        refined = Refined(classifier, weights, biases, refined.facts)
    done = Refined(classifier, trusted * weights, trusted * biases, refined.facts)
    weight, concentration = trusted * sum(rates) / len(rates), sorted(spreads)[len(spreads) // 2]
    facts = RefinementFacts(count, weight, concentration, *_changes(done, images))
    return Refined(classifier, done.weights, done.biases, facts)


def _evidence_of_folds(refined: Refined, images: Features) -> tuple[list[Evidence], torch.Tensor]:
    """Return the evidence of the images in each fold, by their refined shares, and the counts of classes, [J, c]."""
    classes, width, device = refined.biases.shape[1], refined.weights.shape[2], images.pooled.device
    counts, sums = torch.zeros(classes).double().to(device), torch.zeros(classes, width).double().to(device)
    parts = [Evidence(counts, sums, sums[0].clone())] * FOLDS
    seen = torch.zeros(FOLDS, classes, dtype=torch.float64, device=device)
    for block in _blocks(images, classes):
        shares = refined(block).softmax(1)  # [n, c]
        tiny = torch.finfo(shares.dtype).tiny
        sure = 1 + (shares * shares.clamp(min=tiny).log()).sum(1) / math.log(classes)  # [n]
        folds = row_hashes(block.pooled) % FOLDS
        for fold in range(FOLDS):
            rows = (folds == fold).nonzero()[:, 0]
            part = evidence_of(block.pooled[rows], shares[rows], sure[rows])
            parts[fold] = parts[fold] + Evidence(part.counts.double(), part.sums.double(), part.squares.double())
            seen[fold] += shares[rows].double().sum(0)
    return parts, seen


def _changes(refined: Refined, images: Features) -> tuple[float, int]:
    """Return the share of images whose label changed, and the number of classes that are a label."""
    changed, labels = 0, torch.zeros(refined.biases.shape[1], dtype=torch.bool, device=images.pooled.device)
    for block in _blocks(images, len(labels)):
        alone = refined.alone(block)
        chosen = (alone + refined.added(block.pooled)).argmax(1)
        changed += int((chosen != alone.argmax(1)).sum())
        labels[chosen] = True
    return changed / max(len(images.pooled), 1), int(labels.sum())


def _blocks(images: Features, classes: int) -> Iterator[Features]:
    step = max(1, BLOCK_VALUES // classes)
    for start in range(0, len(images.pooled), step):
        yield take_images(images, slice(start, start + step))


def _centred(found: Likelihoods) -> Likelihoods:
    return Likelihoods(found.weights - found.weights.mean(0), found.biases - found.biases.mean(), found.means)


def concentration_of(seen: torch.Tensor) -> float:
    """Return rho of a symmetric Dirichlet-multinomial for counts [c] of classes, from 0.01 to 1,000."""
    counts, rho = seen.double().cpu(), CONCENTRATIONS[:, None]
    classes, total = len(counts), counts.sum()
    score = torch.lgamma(classes * rho) - torch.lgamma(total + classes * rho)
    score = score[:, 0] + (torch.lgamma(counts + rho) - torch.lgamma(rho)).sum(1)
    score = score - 0.5 * (CONCENTRATIONS.log() - math.log(USUAL_CONCENTRATION)) ** 2
    return float(CONCENTRATIONS[int(score.argmax())])


def prior(seen: torch.Tensor, concentration: float) -> torch.Tensor:
    """Return what the frequency of the classes adds to their logits, [c], for counts [c] of images."""
    expected = len(seen) * (seen + concentration) / (seen.sum() + len(seen) * concentration)
    return 0.5 / (1 + concentration) * expected.log()

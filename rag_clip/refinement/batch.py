"""Refinement: the unlabelled images of a file as evidence of its classes, beside the logits of any classifier.

The method is ours. With logits l_i [c] and features x_i of n images, unit class texts T, 1/50 of the log-likelihoods
G_i = w x_i + b, less their mean over the classes, of `classifiers.likelihoods`, and J = 4 folds by a hash of the image:

    z   = softmax(l)
    six times, for the images of each fold f, with sums over those of the others, so that none is its own evidence:
        gamma_i = 1 - entropy(z_i) / log c                  unsure images count less
        E       = sum_i gamma_i (z_i, z_i x_i, x_i^2) + the evidence that is given
        u       = sum_i z_i ;   rho = argmax DirichletMultinomial(u | rho), by a log-normal prior around 3
        prior_k = 1/2 / (1 + rho) log( c (u_k + rho) / (sum u + c rho) )
        a       = 1/50 N / (N + 2 c),  N = sum_k n_k of E
        z_i     = softmax(l_i + a G_i + prior)

A further encoder of images has no texts. With its vectors x' and the same z and folds, every class is anchored at the
mean of all images, and a' G'_i is added, where a' makes softmax(a' G') as sure, on average, as softmax(a G).

A class that no image shows falls back to its text. rho is large where all classes occur alike, and turns the prior
off. The result is linear in x, so a sample of a large file gives the classifier for all of it: every image, sampled or
not, is classified by the evidence of the folds that are not its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from rag_clip.classifiers.likelihoods import FEWEST, HeldEvidence, evidence_of, likelihood_weight, solve
from rag_clip.data import Evidence, Features, LabelSet
from rag_clip.protocols import Classifier
from rag_clip.refinement.sampling import row_hashes, take_images

FOLDS = 4
ROUNDS = 6
ENOUGH = 32
ENOUGH_A_CLASS, USUALLY_PREDICTED = 10, 0.8
LEAST_SAMPLE, SAMPLE_A_CLASS = 50_000, 50
BLOCK_VALUES = 2**22
MOST_COMPARED, BISECTIONS = 2048, 40
CONCENTRATIONS = 10 ** torch.arange(-2, 3.25, 0.25, dtype=torch.float64)
USUAL_CONCENTRATION = 3.0


@dataclass(frozen=True, slots=True)
class RefinementFacts:
    """What a refinement was made of, as provenance has it.

    images: how many images of the file.
    weight: a of the log-likelihoods, the mean of the folds.
    concentration: rho of the classes, the median of the folds: small where few of the classes occur; None where nothing
        is added.
    changed: share of these images whose label changed.
    predicted: how many classes are the label of one.
    chunk: how many consecutive rows were refined together; None for the whole file. Of chunks, weight and concentration
        are the mean over the images and the median.
    """

    images: int
    weight: float
    concentration: float | None
    changed: float
    predicted: int
    chunk: int | None = None

    def warning(self, classes: int) -> str:
        """Return what a user should know, or nothing: texts of classes that are never predicted may be wrong."""
        if self.images < ENOUGH_A_CLASS * classes or self.predicted >= USUALLY_PREDICTED * classes:
            return ""
        return (
            f"only {self.predicted} of {classes} classes are ever predicted; if the file should show more of them, "
            "their texts may be wrong, and refinement makes such errors surer: compare label_alone, or do not refine"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Added:
    """What is added to logits, by fold, from the images of the other folds: x @ weights.T + biases.

    weights, biases: [J, c, d] and [J, c], in the dtype of the images.
    """

    weights: torch.Tensor
    biases: torch.Tensor

    @classmethod
    def nothing(cls, classes: int, features: torch.Tensor) -> Added:
        """Return zeros, in float64, on the device of the features [n, d]."""
        zeros = torch.zeros(FOLDS, classes, features.shape[1], dtype=torch.float64, device=features.device)
        return cls(zeros, zeros[..., 0].clone())

    def times(self, factor: float, like: torch.Tensor) -> Added:
        """Return it all times a factor, in the dtype of `like`."""
        return Added((factor * self.weights).to(like), (factor * self.biases).to(like))

    def __call__(self, features: torch.Tensor, folds: torch.Tensor) -> torch.Tensor:
        """Return [n, c] for unit features [n, d] of images in `folds` [n]."""
        added = torch.empty(len(features), self.biases.shape[1], dtype=features.dtype, device=features.device)
        for fold in range(FOLDS):
            rows = (folds == fold).nonzero()[:, 0]
            added[rows] = features[rows] @ self.weights[fold].to(features).T + self.biases[fold].to(features)
        return added


@dataclass(frozen=True, slots=True, eq=False)
class Refined:
    """A classifier with the evidence of a file beside it.

    alone: the classifier of each image alone.
    without: the classifier that evidence is added to: `alone`, or it without the evidence that it holds.
    own: what is added to the logits of images, by their features.
    others: the same by further encoder.
    facts: what they were made of.
    """

    alone: Classifier
    without: Classifier
    own: Added
    others: Mapping[str, Added]
    facts: RefinementFacts

    @property
    def labels(self) -> LabelSet:
        """The classes of the classifier."""
        return self.alone.labels

    def __call__(self, features: Features) -> torch.Tensor:
        """Return refined logits [n, c]."""
        return self.without(features) + self.added(features)

    def added(self, features: Features) -> torch.Tensor:
        """Return what is added to the logits of images, [n, c]; raises KeyError without a further encoder's vectors."""
        return _all_added(features, row_hashes(features.pooled) % FOLDS, self.own, self.others)


def _all_added(features: Features, folds: torch.Tensor, own: Added, others: Mapping[str, Added]) -> torch.Tensor:
    added = own(features.pooled, folds)
    for name, other in others.items():
        added += other(features.others[name], folds).to(added)
    return added


def images_to_refine(classes: int) -> int:
    """Return how many images of a file are sampled as evidence of so many classes."""
    return max(LEAST_SAMPLE, SAMPLE_A_CLASS * classes)


@torch.no_grad()
def refine(
    classifier: Classifier,
    images: Features,
    texts: torch.Tensor,
    *,
    held: HeldEvidence | None = None,
    further: Sequence[str] = (),
) -> Refined:
    """Return a classifier that is refined by images without labels.

    classifier: of texts alone, or with any head; its logits are at the scale of the encoder.
    images: unit features [n, d] of the file, or of a sample of it, and what else the classifier needs.
    texts: class texts, [c, d]; they are normalised.
    held: evidence of other sources that the classifier holds, such as labelled images: that of the images is added to
        it, and both together take its place.
    further: names of further encoders in `images.others` whose vectors are evidence too.

    Below 16 images, and with a single class, nothing is added; from there to 32 images what is added grows to its full
    size. Sums are in float64; memory holds the logits of a block of images.
    """
    return refine_and_keep(classifier, images, texts, held=held, further=further)[0]


@dataclass(frozen=True, slots=True, eq=False)
class FoldEvidence:
    """What the images outside each fold say, which is added to the logits of those inside.

    evidence: by fold, without what the classifier held.
    priors: what the frequency of the classes adds, by fold, [J, c].
    trusted: the share of it all that is added.
    """

    evidence: tuple[Evidence, ...]
    priors: torch.Tensor
    trusted: float

    def of(self, feature: torch.Tensor) -> tuple[Evidence, torch.Tensor]:
        """Return the evidence and the prior [c] for an image with the unit feature [d]."""
        fold = int(row_hashes(feature[None])[0]) % FOLDS
        return self.evidence[fold], self.priors[fold]


@torch.no_grad()
def refine_and_keep(
    classifier: Classifier,
    images: Features,
    texts: torch.Tensor,
    *,
    held: HeldEvidence | None = None,
    further: Sequence[str] = (),
) -> tuple[Refined, FoldEvidence]:
    """Refine a classifier as `refine` does, and keep the evidence that it was refined by."""
    x, classes = images.pooled, len(texts)
    anchors = torch.nn.functional.normalize(texts.to(x.device).double(), dim=-1)
    folds = row_hashes(x) % FOLDS  # [n]
    own = Added.nothing(classes, x)
    others = {name: Added.nothing(classes, images.others[name]) for name in further}
    priors = own.biases.clone()  # [J, c]
    kept = [_no_evidence(classes, x)] * FOLDS
    rates: list[float] = []
    spreads: list[float] = []
    without = classifier if held is None else held.without
    trusted = 1.0 if held is not None else min(max((len(x) - FEWEST) / (ENOUGH - FEWEST), 0.0), 1.0)
    for _ in range(ROUNDS if classes > 1 and trusted else 0):
        seen, parts, parts_of = _evidence_of_folds(without, images, folds, own, others)
        everything = sum(parts[1:], parts[0])
        rates, spreads = [], []
        for fold, part in enumerate(parts):
            kept[fold], rest = everything - part, seen.sum(0) - seen[fold]
            evidence = kept[fold] if held is None else kept[fold] + held.evidence
            found = solve(evidence, anchors)
            rates.append(likelihood_weight(evidence))
            spreads.append(concentration_of(rest))
            own.weights[fold] = rates[-1] * (found.weights - found.weights.mean(0))
            own.biases[fold] = rates[-1] * (found.biases - found.biases.mean())
            priors[fold] = prior(rest, spreads[-1])
        for name, each in others.items():
            _follow(each, parts_of[name], images.others[name], own, x, folds)
        own.biases.add_(priors)
    own, others = own.times(trusted, x), {name: each.times(trusted, x) for name, each in others.items()}
    weight = trusted * sum(rates) / FOLDS
    concentration = sorted(spreads)[FOLDS // 2] if spreads else None
    refined = Refined(classifier, without, own, others, RefinementFacts(len(x), weight, concentration, 0, 0))
    changed, predicted = _changes(refined, images)
    refined = replace(refined, facts=replace(refined.facts, changed=changed, predicted=predicted))
    return refined, FoldEvidence(tuple(kept), priors, trusted)


def _no_evidence(classes: int, features: torch.Tensor) -> Evidence:
    zeros = torch.zeros(classes, features.shape[1], dtype=torch.float64, device=features.device)
    return Evidence(zeros[:, 0], zeros, zeros[0])


def _evidence_of_folds(
    classifier: Classifier, images: Features, folds: torch.Tensor, own: Added, others: Mapping[str, Added]
) -> tuple[torch.Tensor, list[Evidence], dict[str, list[Evidence]]]:
    """Return the counts of classes, [J, c], and the evidence of the images in each fold, by their refined shares.

    The evidence comes by the features of the images, and by those of each further encoder.
    """
    classes, x = own.biases.shape[1], images.pooled
    parts = [_no_evidence(classes, x)] * FOLDS
    parts_of = {name: [_no_evidence(classes, images.others[name])] * FOLDS for name in others}
    seen = torch.zeros(FOLDS, classes, dtype=torch.float64, device=x.device)
    for rows in _blocks(len(folds), classes):
        block, of_block = take_images(images, rows), folds[rows]
        shares = (classifier(block) + _all_added(block, of_block, own, others)).softmax(1)  # [n, c]
        tiny = torch.finfo(shares.dtype).tiny
        sure = 1 + (shares * shares.clamp(min=tiny).log()).sum(1) / math.log(classes)  # [n]
        for fold in range(FOLDS):
            inside = (of_block == fold).nonzero()[:, 0]
            for vectors, by_fold in [
                (block.pooled, parts),
                *((block.others[name], each) for name, each in parts_of.items()),
            ]:
                part = evidence_of(vectors[inside], shares[inside].to(vectors), sure[inside].to(vectors))
                by_fold[fold] = by_fold[fold] + Evidence(
                    *(each.double() for each in (part.counts, part.sums, part.squares))
                )
            seen[fold] += shares[inside].double().sum(0)
    return seen, parts, parts_of


def _follow(
    other: Added, parts: list[Evidence], vectors: torch.Tensor, own: Added, features: torch.Tensor, folds: torch.Tensor
) -> None:
    """Set what a further encoder adds by its `vectors`: as sure, by fold, as what `own` adds by the features."""
    everything = sum(parts[1:], parts[0])
    for fold, part in enumerate(parts):
        evidence = everything - part
        if not _varies(evidence):
            continue
        found = solve(evidence, torch.zeros_like(evidence.sums))  # anchored at the mean of all images
        weights, biases = found.weights - found.weights.mean(0), found.biases - found.biases.mean()
        rows = (folds == fold).nonzero()[:MOST_COMPARED, 0]
        scores = vectors[rows].double() @ weights.T + biases
        rate = _as_sure(scores, _sureness(own(features[rows], folds[rows]).double()))
        other.weights[fold], other.biases[fold] = rate * weights, rate * biases


def _varies(evidence: Evidence) -> bool:
    """Return whether the images differ by more than rounding."""
    number = evidence.counts.sum()
    return bool(number > 0) and float((evidence.squares / number - (evidence.sums.sum(0) / number) ** 2).sum()) > 1e-9


def _sureness(logits: torch.Tensor) -> float:
    return float(logits.softmax(1).amax(1).mean()) if len(logits) else 0.0


def _as_sure(scores: torch.Tensor, target: float) -> float:
    """Return the factor of scores [n, c] with which they are as sure as `target`, by bisection; 0 for no scores."""
    low, high = -20.0, 3.0  # powers of ten
    for _ in range(BISECTIONS if len(scores) else 0):
        middle = (low + high) / 2
        low, high = (low, middle) if _sureness(10**middle * scores) >= target else (middle, high)
    return 10**low if len(scores) and low > -20 else 0.0


def _changes(refined: Refined, images: Features) -> tuple[float, int]:
    """Return the share of images whose label changed, and the number of classes that are a label."""
    count, classes = len(images.pooled), refined.own.biases.shape[1]
    changed, labels = 0, torch.zeros(classes, dtype=torch.bool, device=images.pooled.device)
    for rows in _blocks(count, classes):
        block = take_images(images, rows)
        chosen = refined(block).argmax(1)
        changed += int((chosen != refined.alone(block).argmax(1)).sum())
        labels[chosen] = True
    return changed / max(count, 1), int(labels.sum())


def _blocks(count: int, classes: int) -> Iterator[slice]:
    step = max(1, BLOCK_VALUES // classes)
    return (slice(start, start + step) for start in range(0, count, step))


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

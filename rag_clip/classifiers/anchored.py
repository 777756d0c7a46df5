"""The head `evidence`: images of every source as sums, in a Gaussian per class that is anchored at the class's text.

The evidence of a source is E = (n [c], S [c, d], q [d]) of `data.Evidence`; that of all is its sum, and each source has
a weight: labelled images 1, images that a person put right 2, images found for a name 1/2 of their relevance, painted
ones 1/4. With w, b and a of
`classifiers.likelihoods`,

    G_k = w_k x + b_k - mean_j (w_j x + b_j)            logits = zero-shot + a G

The sum decides only among the classes with images (`evidence.among`), unless the images of a file are added to it
(refinement). Nothing is trained or chosen, and a new source costs one pass over its images. The method is ours; the
weights of found and painted images were settled on the micro world, that of corrected ones on WHU-RS19.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from rag_clip.classifiers.evidence import Discriminant, check_fit, one_label
from rag_clip.classifiers.floor import Floored
from rag_clip.classifiers.likelihoods import HeldEvidence, evidence_of, likelihood_weight, solve
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Support, Validation
from rag_clip.files.evidence import ClassEvidence
from rag_clip.progress import Report, silent
from rag_clip.protocols import Classifier, Encoder


@dataclass(frozen=True, slots=True, eq=False)
class Anchored(Discriminant):
    """The linear discriminant of `evidence`."""

    evidence: ClassEvidence


@dataclass(frozen=True, slots=True)
class EvidenceSettings:
    """How much an image of each source counts, beside its relevance.

    Raises ValueError for a weight that is negative or not finite.
    """

    shot: float = 1.0
    corrected: float = 2.0
    retrieved: float = 0.5
    synthesised: float = 0.25

    def __post_init__(self) -> None:
        if not all(0 <= weight < float("inf") for weight in asdict(self).values()):
            found = ", ".join(f"{name} = {weight}" for name, weight in asdict(self).items())
            raise ValueError(f"the weights of images are {found}; give numbers from 0")

    def gather(self, support: Support) -> ClassEvidence:
        """Return the evidence of a support set, in float64: a source for each origin of its images.

        Raises ValueError for several labels per image, and for an origin without a weight.
        """
        one_label("support set", support.targets)
        weights: dict[str, float] = asdict(self)
        foreign = next((origin for origin in support.origin if origin not in weights), None)
        if foreign is not None:
            raise ValueError(f"an image has the origin {foreign!r}; evidence is of {', '.join(weights)}")
        sources = {}
        for origin in sorted(set(support.origin), key=list(weights).index):
            rows = torch.tensor([each == origin for each in support.origin], device=support.features.device)
            counts = weights[origin] * support.relevance[rows].double()
            sources[origin] = evidence_of(support.features[rows].double(), support.shares[rows].double(), counts)
        images = {origin: support.origin.count(origin) for origin in sources}
        made = {"method": support.recorded.method, "images": images, "weights": weights}
        provenance = {"encoder": support.recorded.encoder, "method": "evidence", "parts": [made]}
        return ClassEvidence(support.labels, sources, images, provenance)

    @torch.no_grad()
    def build(
        self,
        zero_shot: ZeroShot,
        support: Support,
        *,
        validation: Validation | None = None,
        encoder: Encoder | None = None,
        report: Report = silent,
    ) -> Anchored:
        """Sum the support images; raises ValueError if they do not fit the classifier, and as `gather`."""
        check_fit("support set", support.labels, support.features, zero_shot)
        if validation is not None:
            one_label("validation set", validation.targets)
        return anchored(zero_shot, self.gather(support))


@torch.no_grad()
def anchored(zero_shot: ZeroShot, evidence: ClassEvidence) -> Anchored:
    """Return the head on evidence of the same classes; raises ValueError if it does not fit the classifier."""
    total = evidence.total
    check_fit("evidence", evidence.labels, total.sums, zero_shot)
    texts = torch.nn.functional.normalize(zero_shot.weights.to(total.sums.device).double(), dim=1)
    found, rate = solve(total, texts), likelihood_weight(total)
    weights, offsets = rate * (found.weights - found.weights.mean(0)), rate * (found.biases - found.biases.mean())
    return Anchored(zero_shot, weights, offsets, total.counts > 0, evidence)


def held_evidence(classifier: Classifier) -> HeldEvidence | None:
    """Return the evidence in the logits of the head `evidence`, to which more can be added; None for other classifiers.

    What the floor leaves of the head is the weight of its evidence.
    """
    head, strength = (classifier.head, classifier.strength) if isinstance(classifier, Floored) else (classifier, 1.0)
    if not isinstance(head, Anchored) or not strength:
        return None
    return HeldEvidence(strength * head.evidence.total, head.zero_shot)

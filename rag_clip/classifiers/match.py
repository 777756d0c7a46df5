"""Match image features with a classifier, on their device, in blocks that bound the memory of the logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch

from rag_clip.classifiers.hubs import HubBank
from rag_clip.classifiers.likelihoods import FEWEST
from rag_clip.classifiers.novelty import OpenWorld
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet
from rag_clip.display import counted
from rag_clip.protocols import Classifier, Encoder

Scores = Literal["softmax", "sigmoid"]
Compared = Literal["pooled", "patches", "late"]
LOGITS_AT_ONCE = 1 << 24


@dataclass(frozen=True, slots=True)
class Scoring:
    """What is said of each image: the best `top_k` classes, each with a score (see `match`).

    With `refine`, all images of the file are evidence beside what is said of each alone (see refinement.batch), and the
    label of each image alone is said too; the features of `further` encoders of images, by name, are evidence then. A
    `chunk` is a number of consecutive rows that are evidence for one another, in the place of the whole file, as of a
    camera's stream.
    What is `compared` with the texts is the pooled feature of an image or, by a matching that the encoder learned, its
    patches, or (late) its patches with the words of the texts (see classifiers.learned_match).
    With `open_world`, the novelty of each image is said too, and images that are none of the classes may get no label
    (see classifiers.novelty). With a `hub_bank`, the logits of texts alone are corrected by it (see classifiers.hubs).
    Raises ValueError for `top_k` below 1, for sigmoid scores with `refine` or a `hub_bank`, for `further` or a `chunk`
    without `refine`, for a chunk so small that nothing would be refined, and for anything that reads pooled features
    where patches are compared.
    """

    top_k: int = 5
    scores: Scores = "softmax"
    refine: bool = False
    open_world: OpenWorld | None = None
    hub_bank: HubBank | None = None
    further: Mapping[str, Encoder] = field(default_factory=dict)
    chunk: int | None = None
    compared: Compared = "pooled"

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; it must be at least 1")
        if self.compared not in get_args(Compared):
            raise ValueError(f"{self.compared!r} cannot be compared; choose one of {', '.join(get_args(Compared))}")
        if self.compared != "pooled" and (self.refine or self.open_world or self.hub_bank):
            what = "refinement" if self.refine else "novelty" if self.open_world else "the hub correction"
            raise ValueError(f"{what} reads pooled features, and matching by {self.compared} has none; leave one out")
        if self.compared != "pooled" and self.scores == "sigmoid":
            raise ValueError(f"matching by {self.compared} is trained with a softmax; use softmax scores")
        if self.refine and self.scores == "sigmoid":
            raise ValueError("refined scores are shares of the classes, which sum to one; use softmax scores")
        if self.hub_bank and self.scores == "sigmoid":
            raise ValueError("the hub correction leaves the level of sigmoid scores open; use softmax scores")
        if self.further and not self.refine:
            raise ValueError(
                f"the encoder {next(iter(self.further))} has no use without a head; add refine, or leave it out"
            )
        if self.chunk is not None and not self.refine:
            raise ValueError(f"chunks of {self.chunk} rows are refined, and nothing else; add refine, or leave it out")
        if self.chunk is not None and self.chunk <= FEWEST:
            raise ValueError(
                f"a chunk has {counted(self.chunk, 'row')}; up to {FEWEST} images are left as they are, so give more"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """The k best classes per image, best first.

    `labels` int64 [n, k] are class indices in the classifier's order, `scores` float32 [n, k] their probabilities, and
    `margin` float32 [n] the best probability less the second best (less 0 if c is 1).
    """

    labels: torch.Tensor
    scores: torch.Tensor
    margin: torch.Tensor


@torch.no_grad()
def match(classifier: Classifier, features: Features, *, top_k: int = 5, scores: Scores = "softmax") -> Matches:
    """Rank the classes of each image by their logits; `top_k` is limited to the number of classes.

    `scores` are softmax probabilities over all c classes, which sum to one, or the sigmoid(logit) of each class, as
    SigLIP is trained (Zhai et al., ICCV 2023, arXiv 2303.15343): an image of none of the classes then has only low
    scores. Classes with equal logits keep their order, so that the result does not depend on the device or on the other
    rows. At most about 17 million logits (64 MiB) are in memory at once: with 21,000 classes those of 798 images.

    Raises ValueError for `top_k` below 1, for logits that are not finite or not [n, c], and as `check_scores`.
    """
    check_scores(
        scores,
        trained_bias=isinstance(classifier, ZeroShot) and classifier.trained_bias,
        texts_alone=isinstance(classifier, ZeroShot),
    )
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; ask for at least one class per image")
    rows = max(1, LOGITS_AT_ONCE // max(1, len(classifier.labels)))
    parts = []
    for start in range(0, max(1, len(features.pooled)), rows):
        part = features if len(features.pooled) <= rows else _rows(features, slice(start, start + rows))
        parts.append(rank(classifier(part), part, classifier.labels, top_k=top_k, scores=scores))
    if len(parts) == 1:
        return parts[0]
    return Matches(*(torch.cat([getattr(part, name) for part in parts]) for name in ("labels", "scores", "margin")))


def rank(
    logits: torch.Tensor, features: Features, labels: LabelSet, *, top_k: int = 5, scores: Scores = "softmax"
) -> Matches:
    """Rank the classes of each image by logits [n, c] that are there, as `match` does; raises ValueError as it does."""
    logits = logits.float()
    expected = (len(features.pooled), len(labels))
    if logits.shape != expected:
        raise ValueError(f"the classifier returned logits {tuple(logits.shape)}; expected [n, c] = {expected}")
    if (
        len(logits) and not torch.stack(torch.aminmax(logits)).isfinite().all()
    ):  # aminmax returns NaN if any value is NaN
        raise ValueError("the classifier returned logits that are not finite; check its weights and the features")
    ranked = _rank(logits, min(max(top_k, 2), expected[1]))
    probabilities = logits.gather(1, ranked).sigmoid() if scores == "sigmoid" else logits.softmax(1).gather(1, ranked)
    runner_up = probabilities[:, 1] if expected[1] > 1 else 0.0
    margin = probabilities[:, 0] - runner_up
    return Matches(ranked[:, :top_k], probabilities[:, :top_k], margin)


def check_scores(scores: str, *, trained_bias: bool, texts_alone: bool) -> None:
    """Raise ValueError for unknown scores, and for sigmoid scores if the logits have no absolute level.

    Logits have a level if the encoder was trained with a logit bias and no softmax was trained on top, because a
    softmax does not depend on the level.
    """
    if scores not in get_args(Scores):
        raise ValueError(f"scores are {scores!r}; choose one of {', '.join(get_args(Scores))}")
    if scores == "softmax":
        return
    if not texts_alone:
        raise ValueError(
            "sigmoid scores need texts alone: heads and learned prompts are trained with softmax, which leaves the "
            "level of their logits open; leave them out, or use softmax scores"
        )
    if not trained_bias:
        raise ValueError(
            "sigmoid scores need an encoder that was trained with a logit bias, as SigLIP is, and this one has none; "
            "use softmax scores, or another model"
        )


def _rows(features: Features, rows: slice) -> Features:
    return Features(
        features.pooled[rows],
        None if features.patches is None else features.patches[rows],
        features.ids[rows],
        {name: others[rows] for name, others in features.others.items()},
    )


def _rank(logits: torch.Tensor, k: int) -> torch.Tensor:
    values, columns = logits.topk(k, dim=1)  # [n, k] each
    columns = columns.sort(dim=1).values
    order = logits.gather(1, columns).argsort(dim=1, descending=True, stable=True)
    ranked = columns.gather(1, order)
    # topk may pick any of the classes that tie for the last place; only such rows are sorted in full
    tied = (logits >= values[:, -1:]).sum(dim=1) > k
    if tied.any():
        ranked[tied] = logits[tied].argsort(dim=1, descending=True, stable=True)[:, :k]
    return ranked

"""Filter retrieved images: keep those that differ from each other, fit their class, and come from many sources.

The rules are ours. For the m candidates of class c, best first, with zero-shot logits z(x):

    noise           drop if noise(x) > 0.5, the probability that caption and image do not match (corpus.noise)
    near copy       drop if an earlier image of the class has bits(phash xor phash') <= 8, or f . f' >= 0.995
    inconsistent    drop if argmax_j z_j(x) != c; or, judged by images, if argmax_j f . m_j != c, with m_j the mean of
                    the candidates of class j (for j = c without x itself)
    agreement(c)    the share of consistent images; below 0.3 all images of the class are dropped, and heads use only
                    its text
    source          drop images beyond ceil(share * limit) of one source, and beyond the limit
    two classes     drop if a near copy is kept for another class that it fits better

The threshold 0.3 is a judgement, not tuned: if fewer than a third of the images retrieved for a name look like the
class, then either the name retrieves other things, or the encoder cannot recognise the class by its text.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch.nn.functional import normalize

from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features
from rag_clip.display import counted
from rag_clip.support.decontaminate import NEAR_BITS, PAIRS_AT_ONCE, near_hashes
from rag_clip.support.retrieved import Candidates, first_of_each

ROWS_AT_ONCE = 4096
Judge = Literal["text", "images", "nothing"]


@dataclass(frozen=True, slots=True)
class Concentration:
    """Thresholds of the rules in the module docstring.

    limit: images kept per class.
    most_noise: largest probability of noise.
    near_cosine: cosine from which on images are near copies.
    judge: what the consistency of an image is judged by: the `text` of the classes; the other `images` retrieved, for
        names that occur in captions but that the encoder does not know; or `nothing`.
    least_agreement: agreement below which a class gets no images; 0 for never.
    source_share: largest share of the limit from one source; 1 for no cap.

    Raises ValueError for values out of range.
    """

    limit: int = 16
    most_noise: float = 0.5
    near_cosine: float = 0.995
    judge: Judge = "text"
    least_agreement: float = 0.3
    source_share: float = 1.0

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"the limit is {counted(self.limit, 'image')} per class; take at least 1")
        if self.judge not in get_args(Judge):
            raise ValueError(f"unknown judge {self.judge!r}; known are {', '.join(get_args(Judge))}")
        for name in ("most_noise", "near_cosine", "least_agreement", "source_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number from 0 to 1")


@dataclass(frozen=True, slots=True, eq=False)
class Concentrated:
    """The candidates kept.

    rows: of the candidates kept, ascending.
    dropped: number of candidates dropped, by reason.
    agreement: share of consistent images by class name, for classes with images.
    fallen_back: names of classes whose agreement was too low.
    """

    rows: np.ndarray
    dropped: Mapping[str, int]
    agreement: Mapping[str, float]
    fallen_back: tuple[str, ...]


def concentrate(candidates: Candidates, classifier: ZeroShot, settings: Concentration | None = None) -> Concentrated:
    """Choose among the candidates of the classifier's classes, by the rules above.

    Raises ValueError for features of another width than the classifier's.
    """
    settings = settings or Concentration()
    width = classifier.weights.shape[1]
    if candidates.features.shape[1] != width:
        raise ValueError(f"images have {candidates.features.shape[1]} numbers, the classifier {width}; use one encoder")
    names = classifier.labels.names
    dropped: Counter[str] = Counter()
    rows = np.arange(len(candidates))

    def keep(mask: np.ndarray, reason: str) -> None:
        nonlocal rows
        dropped[reason] += int((~mask).sum())
        rows = rows[mask]

    keep(~(candidates.noise > settings.most_noise), "the caption is probably wrong")
    keep(_different(candidates.take(rows), settings.near_cosine), "near copy of an image of the class")
    own, best = np.zeros(len(candidates)), candidates.classes.copy()
    own[rows], best[rows] = _judge(candidates.take(rows), classifier, settings.judge)
    agreement: dict[str, float] = {}
    fallen_back: tuple[str, ...] = ()
    if settings.judge != "nothing":
        agrees = best[rows] == candidates.classes[rows]
        rates = _rates(candidates.classes[rows], agrees, len(names))
        agreement = {name: float(rate) for name, rate in zip(names, rates, strict=True) if not math.isnan(rate)}
        low = rates < settings.least_agreement
        fallen_back = tuple(names[place] for place in np.flatnonzero(low))
        too_low = low[candidates.classes[rows]]
        keep(agrees | too_low, "looks like another class")
        keep(~low[candidates.classes[rows]], "too few images of the class look like it")
    keep(_within_sources(candidates.take(rows), settings), "too many of its source")
    mask = np.zeros(len(rows), bool)
    mask[first_of_each(candidates.classes[rows], settings.limit)] = True
    keep(mask, "beyond the limit")
    keep(_of_one_class(candidates.take(rows), own[rows], settings.near_cosine), "stands for another class better")
    return Concentrated(rows, {reason: count for reason, count in dropped.items() if count}, agreement, fallen_back)


@torch.no_grad()
def _judge(candidates: Candidates, classifier: ZeroShot, judge: Judge) -> tuple[np.ndarray, np.ndarray]:
    """Return the score of each candidate for its class, [m], and its best class, int64 [m]."""
    classes = torch.from_numpy(candidates.classes)
    features = candidates.features.to(classifier.weights.device)  # [m, d]
    sums = torch.zeros_like(classifier.weights).index_add_(0, classes.to(features.device), features)  # [c, d]
    own, best = [torch.zeros(0)], [torch.zeros(0, dtype=torch.int64)]
    for start in range(0, len(candidates), ROWS_AT_ONCE):
        block = features[start : start + ROWS_AT_ONCE]  # [b, d]
        column = classes[start : start + ROWS_AT_ONCE, None]  # [b, 1]
        if judge == "images":
            scores = (block @ normalize(sums, dim=1).T).cpu()  # [b, c]
            others = sums[column[:, 0].to(sums.device)] - block
            without = (block * normalize(others, dim=1)).sum(1).cpu()
            # The only image of a class has no other to compare with, and is kept. Its difference is rounding noise.
            alone = torch.linalg.vector_norm(others, dim=1).cpu() < 1e-4
            scores.scatter_(1, column, torch.where(alone, 1.0, without)[:, None])
        else:
            scores = classifier(Features(block)).cpu()  # [b, c]
        own.append(scores.gather(1, column)[:, 0])
        best.append(scores.argmax(1))
    return torch.cat(own).numpy(), torch.cat(best).numpy()


def _rates(classes: np.ndarray, agrees: np.ndarray, count: int) -> np.ndarray:
    images = np.bincount(classes, minlength=count)
    right = np.bincount(classes[agrees], minlength=count)
    rates: np.ndarray = np.where(images > 0, right / np.maximum(images, 1), np.nan)
    return rates


def _different(candidates: Candidates, cosine: float) -> np.ndarray:
    """Return whether each candidate is not a near copy of an earlier kept one of its class, bool [m]."""
    stays = np.ones(len(candidates), bool)
    for row_class in np.unique(candidates.classes):
        rows = np.flatnonzero(candidates.classes == row_class)
        near = _near(candidates.take(rows), candidates.take(rows), cosine)
        for row in range(len(rows)):
            stays[rows[row]] = not (near[row, :row] & stays[rows[:row]]).any()
    return stays


def _of_one_class(candidates: Candidates, own: np.ndarray, cosine: float) -> np.ndarray:
    """Return whether each candidate has no near copy in another class with a higher score, bool [m].

    Of equal scores, the lower class keeps its image.
    """
    stays = np.ones(len(candidates), bool)
    block = max(1, PAIRS_AT_ONCE // max(1, len(candidates)))
    for start in range(0, len(candidates), block):
        rows = np.arange(start, min(start + block, len(candidates)))
        near = _near(candidates.take(rows), candidates, cosine)
        near &= candidates.classes[rows][:, None] != candidates.classes[None, :]
        higher = own[None, :] > own[rows][:, None]
        equal = (own[None, :] == own[rows][:, None]) & (candidates.classes[None, :] < candidates.classes[rows][:, None])
        stays[rows] = ~(near & (higher | equal)).any(1)
    return stays


def _within_sources(candidates: Candidates, settings: Concentration) -> np.ndarray:
    stays = np.ones(len(candidates), bool)
    if settings.source_share == 1 or not len(candidates):
        return stays
    most = math.ceil(settings.source_share * settings.limit)
    _, sources = np.unique(np.array(candidates.sources, dtype=object), return_inverse=True)
    groups = candidates.classes * (int(sources.max()) + 1) + sources
    stays[:] = False
    stays[first_of_each(groups, most)] = True
    return stays


def _near(first: Candidates, second: Candidates, cosine: float) -> np.ndarray:
    by_cosine = (first.features @ second.features.T).cpu().numpy() >= cosine
    near: np.ndarray = by_cosine | near_hashes(first.phash, second.phash, NEAR_BITS)
    return near

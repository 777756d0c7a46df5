"""Concentrate what was retrieved for classes on images that are different, of their class, and from many sources.

Ours. For the m candidates of class c, best first, with zero-shot logits z(x):

    dropped as noise           where noise(x) > 0.5, NLIP's probability that caption and image do not belong together
    dropped as a near copy     of an earlier image of the class: bits(phash xor phash') <= 8, or f . f' >= 0.995
    dropped as inconsistent    where argmax_j z_j(x) != c; or, judged by images, argmax_j f . m_j != c, m_j the mean of
                               the candidates of class j, for j = c without x itself
    agreement(c)               the share of the images that were consistent; below 0.3 the class has no image at all,
                               and heads keep to its text
    dropped over a source      beyond ceil(share * limit) images of one source, and beyond the limit
    dropped as two classes'    where a near copy stays for another class that it fits better

0.3 is measured on nothing but sense: where fewer than a third of the images found for a name look like it, either the
name finds other things, or its text cannot tell.
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
from rag_clip.support.decontaminate import NEAR_BITS, PAIRS_AT_ONCE, near_hashes
from rag_clip.support.retrieved import Candidates, first_of_each

ROWS_AT_ONCE = 4096
Judge = Literal["text", "images", "nothing"]


@dataclass(frozen=True, slots=True)
class Concentration:
    """What may stay: see the top of this file. `source_share` 1 caps no source; `least_agreement` 0 drops no class.

    `judge` says by what an image must look like its class: the `text` of the classes; the other `images` found, for
    names that captions know and the encoder does not; or `nothing`. Raises ValueError out of range.
    """

    limit: int = 16
    most_noise: float = 0.5
    near_cosine: float = 0.995
    judge: Judge = "text"
    least_agreement: float = 0.3
    source_share: float = 1.0

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"the limit is {self.limit} images per class; take at least 1")
        if self.judge not in get_args(Judge):
            raise ValueError(f"unknown judge {self.judge!r}; known are {', '.join(get_args(Judge))}")
        for name in ("most_noise", "near_cosine", "least_agreement", "source_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number from 0 to 1")


@dataclass(frozen=True, slots=True, eq=False)
class Concentrated:
    """The rows of the candidates that stay, and why the others were dropped.

    `agreement` is the share of each class's images that look like it, for classes that had any; `fallen_back` are the
    names for which it was too low.
    """

    rows: np.ndarray
    dropped: Mapping[str, int]
    agreement: Mapping[str, float]
    fallen_back: tuple[str, ...]


def concentrate(candidates: Candidates, classifier: ZeroShot, settings: Concentration | None = None) -> Concentrated:
    """Choose among the candidates of the classifier's classes; images are judged by its logits.

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
    """Return how well each candidate fits its class, and the class that it fits best."""
    classes = torch.from_numpy(candidates.classes)
    features = candidates.features.to(classifier.weights.device)
    sums = torch.zeros_like(classifier.weights).index_add_(0, classes.to(features.device), features)
    own, best = [torch.zeros(0)], [torch.zeros(0, dtype=torch.int64)]
    for start in range(0, len(candidates), ROWS_AT_ONCE):
        held = features[start : start + ROWS_AT_ONCE]
        column = classes[start : start + ROWS_AT_ONCE, None]
        if judge == "images":
            fits = (held @ normalize(sums, dim=1).T).cpu()
            others = sums[column[:, 0].to(sums.device)] - held
            without = (held * normalize(others, dim=1)).sum(1).cpu()
            # The only image of its class has nothing to be compared with, and stays.
            alone = torch.linalg.vector_norm(others, dim=1).cpu() < 1e-4
            fits.scatter_(1, column, torch.where(alone, 1.0, without)[:, None])
        else:
            fits = classifier(Features(held)).cpu()
        own.append(fits.gather(1, column)[:, 0])
        best.append(fits.argmax(1))
    return torch.cat(own).numpy(), torch.cat(best).numpy()


def _rates(classes: np.ndarray, agrees: np.ndarray, count: int) -> np.ndarray:
    held = np.bincount(classes, minlength=count)
    right = np.bincount(classes[agrees], minlength=count)
    rates: np.ndarray = np.where(held > 0, right / np.maximum(held, 1), np.nan)
    return rates


def _different(candidates: Candidates, cosine: float) -> np.ndarray:
    """Tell which candidates are no near copy of an earlier one of their class that stays."""
    stays = np.ones(len(candidates), bool)
    for place in np.unique(candidates.classes):
        rows = np.flatnonzero(candidates.classes == place)
        near = _near(candidates.take(rows), candidates.take(rows), cosine)
        for row in range(len(rows)):
            stays[rows[row]] = not (near[row, :row] & stays[rows[:row]]).any()
    return stays


def _of_one_class(candidates: Candidates, own: np.ndarray, cosine: float) -> np.ndarray:
    """Tell which candidates have no near copy in another class with a higher logit, or as high in an earlier class."""
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

"""SuS-LC: a support set from images retrieved by class name, without any labelled image.

Udandarao, Gupta and Albanie, 2023, "SuS-X: Training-Free Name-Only Transfer of Vision-Language Models" (ICCV 2023,
arXiv 2211.16198). A class gets the images nearest to the embedding of one sentence, or of ten sentences that share the
budget. Targets are one-hot.

Different from the paper: the single embedding is the class weight, composed of all texts of the class; images can also
be found by captions that contain the name; images are taken in the order of their best rank over all queries of the
class; all classes have the same limit; relevance is 1 minus the probability of noise, where it is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch

from rag_clip.data import Hit, LabelSet, Prompts, Support
from rag_clip.display import counted

Search = Literal["class", "texts", "captions"]
SENTENCES = 10


@dataclass(frozen=True, slots=True)
class Query:
    """One search for up to `budget` images of the class with index `row`, by `text`."""

    row: int
    text: str
    budget: int


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Images retrieved for classes: m rows, one per image and class, sorted by class, best first.

    classes: int64 [m].
    ids: of the images in the index.
    features: unit rows, float32 [m, d].
    sha256: of the image bytes.
    phash: perceptual hashes, uint64 [m].
    noise: probability that the caption is wrong, float64 [m]; NaN where unknown.
    sources: the corpus of each image.
    """

    classes: np.ndarray
    ids: tuple[str, ...]
    features: torch.Tensor
    sha256: tuple[str, ...]
    phash: np.ndarray
    noise: np.ndarray
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> Candidates:
        """Return the candidates at `rows`, in their order."""
        listed = rows.tolist()
        return Candidates(
            self.classes[rows],
            tuple(self.ids[row] for row in listed),
            self.features[torch.from_numpy(rows)],
            tuple(self.sha256[row] for row in listed),
            self.phash[rows],
            self.noise[rows],
            tuple(self.sources[row] for row in listed),
        )


@dataclass(frozen=True, slots=True)
class ImageSearch:
    """How images are searched for classes: `candidates` for each, `by` its class weight, its texts, or captions.

    Raises ValueError for fewer than one candidate and an unknown `by`.
    """

    by: Search = "class"
    candidates: int = 100

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.by not in get_args(Search):
            raise ValueError(f"unknown search {self.by!r}; known are {', '.join(get_args(Search))}")
        if self.candidates < 1:
            raise ValueError(f"candidates is {counted(self.candidates, 'image')} per class; ask for at least 1")


def plan_queries(prompts: Prompts, asked: ImageSearch) -> list[Query]:
    """Return the queries of every class, in class order, so that each class has about the candidates asked for.

    By "class" there is one query per class with an empty text, which stands for the class weight; by "texts", the ten
    texts of the class with the largest weights, each with an equal share of the candidates; by "captions", its name and
    synonyms.
    """
    labels = prompts.labels
    queries: list[Query] = []
    for row, group in enumerate(prompts.texts):
        if asked.by == "class":
            texts = [""]
        elif asked.by == "captions":
            texts = [labels.names[row].replace("_", " "), *labels.synonyms[row]]
        else:
            # Sorting is stable: of texts with equal weight, the first are used.
            heaviest = sorted((text for text in group if text.weight > 0), key=lambda text: -text.weight)
            texts = list(dict.fromkeys(text.text for text in heaviest))[:SENTENCES]
        queries += [Query(row, text, math.ceil(asked.candidates / len(texts))) for text in texts]
    return queries


def merge_hits(found: Sequence[Sequence[Hit]]) -> list[Hit]:
    """Merge the results of the queries of one class, by best rank and then by query; each image comes once."""
    longest = max(map(len, found), default=0)
    best: dict[str, Hit] = {}
    for rank in range(longest):
        for hits in found:
            if rank < len(hits):
                best.setdefault(hits[rank].id, hits[rank])
    return list(best.values())


def retrieved_support(
    labels: LabelSet, candidates: Candidates, *, limit: int = 16, provenance: Mapping[str, Any] | None = None
) -> Support:
    """Return the first `limit` candidates of each class as a support set; classes without any are listed as missing.

    SuS-X uses up to 100 and tunes the number per data set; 16 is our default. Raises ValueError for a limit below 1,
    and for no candidates at all.
    """
    if limit < 1:
        raise ValueError(f"the limit is {counted(limit, 'image')} per class; take at least 1")
    if not len(candidates):
        raise ValueError("no image was found for any class; loosen the filters, or classify by text alone")
    chosen = candidates.take(first_of_each(candidates.classes, limit))
    targets = torch.zeros(len(chosen), len(labels))  # [m, c]
    targets[torch.arange(len(chosen)), torch.from_numpy(chosen.classes)] = 1
    relevance = torch.from_numpy(1 - np.nan_to_num(chosen.noise, nan=0.0)).float().clamp(0, 1)
    return Support(
        labels, chosen.features, targets, relevance, ("retrieved",) * len(chosen), chosen.ids, dict(provenance or {})
    )


def first_of_each(groups: np.ndarray, limit: int) -> np.ndarray:
    """Return the ascending rows that are among the first `limit` of their group."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    places = np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))
    rows: np.ndarray = np.sort(order[places < limit])
    return rows

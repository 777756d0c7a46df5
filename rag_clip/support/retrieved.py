"""SuS-LC: images that a corpus holds for class names, as a support set without any labelled image.

Udandarao, Gupta and Albanie, 2023, "SuS-X: Training-Free Name-Only Transfer of Vision-Language Models" (ICCV 2023,
arXiv 2211.16198). A class has the images nearest to the embedding of one sentence, or of ten sentences that share the
budget, in order, until there are enough. Targets are one-hot.

Ours: the one embedding is that of the class, its texts composed; captions that say the name are found by their words;
images are chosen in the order of their best rank over all queries of the class; classes are balanced by one limit;
relevance is 1 - the probability that caption and image do not belong together, where it is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch

from rag_clip.data import Hit, LabelSet, Prompts, Support

Search = Literal["class", "texts", "captions"]
SENTENCES = 10


@dataclass(frozen=True, slots=True)
class Query:
    """What to ask the images for: a `text`, for the class `row`, up to `budget` images."""

    row: int
    text: str
    budget: int


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Images found for classes, m rows, one per image and class, class by class, best first.

    `classes` int64 [m], `ids` in the index, unit `features` float32 [m, d], `sha256` of the bytes, perceptual hashes
    `phash` uint64 [m], `noise` float64 [m] (NaN where not judged), `sources`.
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
        """Return the rows named, in their order."""
        places = rows.tolist()
        return Candidates(
            self.classes[rows],
            tuple(self.ids[row] for row in places),
            self.features[torch.from_numpy(rows)],
            tuple(self.sha256[row] for row in places),
            self.phash[rows],
            self.noise[rows],
            tuple(self.sources[row] for row in places),
        )


def plan_queries(prompts: Prompts, *, search: Search, budget: int) -> list[Query]:
    """Return what to ask for every class, in class order, so that each class has about `budget` candidates.

    `class` is one query with an empty text: the embedding of the class, its texts composed, is asked with. `texts` are
    the class's ten heaviest texts, each with an equal share of the budget; `captions` its name and synonyms. Raises
    ValueError for a budget below 1 and an unknown search.
    """
    if search not in get_args(Search):
        raise ValueError(f"unknown search {search!r}; known are {', '.join(get_args(Search))}")
    if budget < 1:
        raise ValueError(f"the budget is {budget} images per class; ask for at least 1")
    labels = prompts.labels
    queries: list[Query] = []
    for row, group in enumerate(prompts.texts):
        if search == "class":
            texts = [""]
        elif search == "captions":
            texts = [labels.names[row].replace("_", " "), *labels.synonyms[row]]
        else:
            # Sorting is stable: of texts that weigh the same, the first are asked.
            texts = list(dict.fromkeys(text.text for text in sorted(group, key=lambda text: -text.weight)))[:SENTENCES]
        queries += [Query(row, text, math.ceil(budget / len(texts))) for text in texts]
    return queries


def merge_hits(found: Sequence[Sequence[Hit]]) -> list[Hit]:
    """Merge what the queries of one class found: by best rank, of the same rank by query; each image once."""
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
    """Return the first `limit` candidates of each class as its support; classes without any are listed as missing.

    SuS-X takes up to 100 and tunes the number per data set; 16 is ours. Raises ValueError for a limit below 1, and
    where there is no candidate at all.
    """
    if limit < 1:
        raise ValueError(f"the limit is {limit} images per class; take at least 1")
    if not len(candidates):
        raise ValueError("no image was found for any class; loosen the filters, or classify by text alone")
    chosen = candidates.take(first_of_each(candidates.classes, limit))
    targets = torch.zeros(len(chosen), len(labels))
    targets[torch.arange(len(chosen)), torch.from_numpy(chosen.classes)] = 1
    relevance = torch.from_numpy(1 - np.nan_to_num(chosen.noise, nan=0.0)).float().clamp(0, 1)
    return Support(
        labels, chosen.features, targets, relevance, ("retrieved",) * len(chosen), chosen.ids, dict(provenance or {})
    )


def first_of_each(groups: np.ndarray, limit: int) -> np.ndarray:
    """Return the rows that are among the first `limit` of their group, in order."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    places = np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))
    rows: np.ndarray = np.sort(order[places < limit])
    return rows

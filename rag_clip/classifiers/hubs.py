"""Hub correction: a class text that lies near all images takes those of others, and a bank of images shows which do.

With unit bank images b that stand for all classes alike, unit class texts T and the encoder's scale s,

    logits_k = zero-shot_k - weight ( log mean_b exp(s b T_k) )            weight 1/2

A form of inverted softmax (Smith et al., ICLR 2017, arXiv 1702.03859) with its effect halved; QB-Norm (Bogolin et al.,
CVPR 2022, arXiv 2112.12777) applies it to retrieval. Full weight cost names of the tail five points on the micro world,
so a half was chosen there. The bank needs no labels, and none of the images that are classified.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, Fingerprint, LabelSet, check_same_encoder
from rag_clip.files.evidence import is_evidence
from rag_clip.files.identity import hash_facts, identify
from rag_clip.files.support import read_support
from rag_clip.store import Location, open_store

WEIGHT = 0.5
MOST_IMAGES = 20_000
AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class HubBank:
    """Images that show which class texts are hubs: a support file or an index of images, and the correction's weight.

    They should stand for all classes alike. Of an index at most 20,000 images are taken, by chance. Raises ValueError
    for a weight below zero or above one.
    """

    place: str | Path
    weight: float = WEIGHT

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"the weight of the hub correction is {self.weight}; give a number from 0 to 1")

    @property
    def _is_file(self) -> bool:
        return Path(self.place).suffix.lower() == ".parquet" and not Location(str(self.place)).is_server

    def facts(self) -> Any:
        """Return what identifies the images: that of the file, or the index's encoder and the ids taken from it.

        Raises FileNotFoundError for a missing file, and StoreError for what is no index.
        """
        if self._is_file or is_evidence(self.place):
            return identify(Path(self.place)).facts
        with open_store(str(self.place)) as store:
            ids = [hit.id for hit in store.sample(MOST_IMAGES, 0)]
            return [store.card.encoder.identity, store.count(), hash_facts(ids)]

    def read(self, encoder: Fingerprint) -> Iterator[torch.Tensor]:
        """Yield the features of the images in blocks of unit rows [b, d].

        Raises ValueError for images of another encoder, for a file of evidence, which has none, and for an index
        without images; FileNotFoundError for a missing file.
        """
        if is_evidence(self.place):
            raise ValueError(f"{self.place} holds sums of images, and the hub correction needs images; give another")
        if self._is_file:
            support = read_support(self.place, encoder=encoder)
            yield from torch.split(support.features[support.relevance > 0], AT_ONCE)
            return
        with open_store(str(self.place)) as store:
            what, advice = f"the index {self.place} was made", "give one of this encoder"
            check_same_encoder(store.card.encoder, encoder, what=what, advice=advice)
            store.card.schema.pick_vector("image")
            ids = [hit.id for hit in store.sample(MOST_IMAGES, 0)]
            for start in range(0, len(ids), AT_ONCE):
                rows = store.vectors(ids[start : start + AT_ONCE], vector="image")
                yield torch.from_numpy(np.stack(list(rows.values()))).float()


@dataclass(frozen=True, slots=True, eq=False)
class Unhubbed:
    """Zero-shot logits less `offsets` [c]."""

    zero_shot: ZeroShot
    offsets: torch.Tensor

    @property
    def labels(self) -> LabelSet:
        """The c classes."""
        return self.zero_shot.labels

    def __call__(self, features: Features) -> torch.Tensor:
        """Return logits [n, c], on the device and in the dtype of `features.pooled` [n, d]."""
        return self.zero_shot(features) - self.offsets.to(features.pooled)


@torch.no_grad()
def correct_hubs(zero_shot: ZeroShot, bank: Iterable[torch.Tensor], *, weight: float = WEIGHT) -> Unhubbed:
    """Return the classifier corrected by a bank of images, unit rows [b, d] in blocks; memory holds a block's logits.

    Raises ValueError for a bank without an image, and images of another width.
    """
    classes, width = zero_shot.weights.shape
    total = torch.full((classes,), -torch.inf, dtype=torch.float64, device=zero_shot.weights.device)
    count = 0
    for block in bank:
        if block.shape[1] != width:
            raise ValueError(f"the bank is {block.shape[1]} wide, the prompts {width}; encode both by the same encoder")
        logits = zero_shot(Features(block.to(zero_shot.weights))).double()  # [b, c]
        total = torch.logaddexp(total, logits.logsumexp(0))
        count += len(block)
    if not count:
        raise ValueError("the bank has no image; give a support file or an index of images")
    return Unhubbed(zero_shot, (weight * (total - log(count))).to(zero_shot.weights))

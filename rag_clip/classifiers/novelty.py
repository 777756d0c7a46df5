"""None of these: how much likelier an image is to show something that no class names.

NegLabel (Jiang et al., ICLR 2024, arXiv 2403.20078) compares the classes with texts of other things, the negatives.
With unit image features x, class texts T [c, d], negatives N [q, d] in groups g, and the encoder's scale s,

    novelty = 1 - mean_g  sum_k exp(s x T_k) / ( sum_k exp(s x T_k) + sum_{j in g} exp(s x N_j) )

in [0, 1]. The paper chooses the words of a dictionary that lie farthest from the classes. Here negatives are the
phrases that the corpus says most often and that share no name with the classes, and all are used, which measured better
on genuine CLIP. They are dealt out to groups of about 120, so that frequent and rare ones occur in each.

Above some novelty an image is none of the classes. The threshold keeps 95 % of labelled images below it, as FPR95 has
it; without labelled images it is a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rag_clip.classifiers.evidence import wide
from rag_clip.classifiers.zero_shot import ZeroShot

IN_A_GROUP = 120
PHRASES = 3000  # of captions, before those that share a name with the classes are left out
MOST_NEGATIVES = 1200
KEPT = 0.95
USUAL_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class OpenWorld:
    """What decides whether an image is none of the classes.

    negatives: names of other things, or where they are: a word list, a label file, captions, or a caption index, whose
        most frequent phrases are taken.
    support: a support file whose labelled images choose the threshold; None for the usual one.
    threshold: the novelty above which an image is none of the classes, in [0, 1]; None to choose it.
    reject: such images get no label.

    Raises ValueError for a threshold outside [0, 1], and for no names.
    """

    negatives: Sequence[str] | str | Path
    support: str | Path | None = None
    threshold: float | None = None
    reject: bool = False

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"the threshold of novelty is {self.threshold}; give a number from 0 to 1")
        if not isinstance(self.negatives, Path) and not len(self.negatives):
            raise ValueError("there are no negatives; give names of other things, or a caption index")

    @property
    def places(self) -> tuple[str | Path, ...]:
        """The files and folders that are read."""
        negatives = (self.negatives,) if isinstance(self.negatives, str | Path) else ()
        return (*negatives, *(() if self.support is None else (self.support,)))


@dataclass(frozen=True, slots=True, eq=False)
class Novelty:
    """The novelty of images: class texts `classes`, unit rows of `negatives` [q, d], about `in_a_group` a group."""

    classes: ZeroShot
    negatives: torch.Tensor
    in_a_group: int = IN_A_GROUP

    @torch.no_grad()
    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Return the novelty of images with unit features [n, d], float32 [n] on their device."""
        images = wide(features)
        scale = self.classes.scale
        known = (scale * images @ self.classes.weights.to(images).T).logsumexp(1)  # [n]
        groups = max(1, round(len(self.negatives) / self.in_a_group))
        share = torch.zeros_like(known)
        for group in range(groups):
            others = scale * images @ self.negatives[group::groups].to(images).T
            share += (known - others.logsumexp(1)).sigmoid()
        return (1 - share / groups).float()


def threshold_of(novelty: torch.Tensor) -> float:
    """Return the novelty above which at most 5 % of the m images of the classes lie; of up to twenty, their largest."""
    return float(novelty.double().quantile(KEPT, interpolation="higher"))

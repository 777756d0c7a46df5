"""Labelled images by what they may be used for, as types: to train, to choose (data.Validation), or to score.

What trains or chooses reads `targets`, and a `Test` has none: its labels are `truth`, for scoring alone. So a test set
that gets into a search by mistake fails the type check, and fails when run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import torch

from rag_clip.data import Features, LabelSet, SeveralLabels, Support, Targets, foreign_row


@dataclass(frozen=True, slots=True, eq=False)
class Train:
    """Images to train on: `features` of n images, `targets` int64 [n] of `labels`, or SeveralLabels.

    Raises ValueError for no image, targets of another length, and classes that the label set does not have.
    """

    features: Features
    labels: LabelSet
    targets: Targets

    def __post_init__(self) -> None:
        _check("train", self.features, self.labels, self.targets)

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: torch.Tensor) -> Train:
        """Return the images of `rows`, int64 or bool, in their order."""
        return Train(take_features(self.features, rows), self.labels, self.targets[rows])

    def support(self) -> Support:
        """Return them as shots of full relevance, each of one class or of several in full, for heads."""
        count, targets = len(self), self.targets
        if not isinstance(targets, SeveralLabels):
            targets = torch.nn.functional.one_hot(targets, len(self.labels)).to(self.features.pooled)
        references = self.features.ids or tuple(map(str, range(count)))
        return Support(
            self.labels,
            self.features.pooled,
            targets,
            self.features.pooled.new_ones(count),
            ("shot",) * count,
            references,
            others=self.features.others,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Test:
    """Images to score on: `features` of n images and their `truth`, int64 [n], or SeveralLabels.

    Nothing that trains or chooses takes one. Raises ValueError as `Train` does.
    """

    __test__ = False  # not a test of pytest's

    features: Features
    labels: LabelSet
    truth: Targets

    def __post_init__(self) -> None:
        _check("test", self.features, self.labels, self.truth)

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def targets(self) -> NoReturn:
        """Refuse: raises TypeError, since labels of test images are read as `truth`, by what scores."""
        raise TypeError("labels of test images are for scoring alone (`truth`); train on Train, choose on Validation")


def take_features(features: Features, rows: torch.Tensor) -> Features:
    """Return the features of `rows`, int64 or bool [n], in their order."""
    numbers = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
    return Features(
        features.pooled[numbers],
        None if features.patches is None else features.patches[numbers],
        tuple(features.ids[row] for row in numbers.tolist()) if features.ids else (),
        {name: values[numbers] for name, values in features.others.items()},
    )


def _check(role: str, features: Features, labels: LabelSet, targets: Targets) -> None:
    if not 0 < len(targets) == len(features.pooled):
        raise ValueError(
            f"{len(targets)} labels for {len(features.pooled)} {role} images; give one per image, at least one image"
        )
    row = foreign_row(role, targets, len(labels))
    if row is not None and not isinstance(targets, SeveralLabels):
        raise ValueError(
            f"{role} image {row} has class {int(targets[row])}, which is none of the {len(labels)}; count them from 0"
        )

"""Types of labelled images by their use: training, choosing settings (data.Validation), or scoring.

Functions that train or choose settings read `targets`. A `Test` has no `targets`: its labels are `truth`, for scoring
only. So passing a test set to a search by mistake fails the type check, and fails at run time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import torch

from rag_clip.data import Features, LabelSet, SeveralLabels, Support, Targets, foreign_row


@dataclass(frozen=True, slots=True, eq=False)
class Train:
    """Training images: `features` of n images, and `targets`: their classes, int64 [n], or SeveralLabels.

    Raises ValueError for no image, targets of another length, and classes outside the label set.
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
        """Return the images as a support set of shots with relevance 1, for heads."""
        count, targets = len(self), self.targets
        if not isinstance(targets, SeveralLabels):
            targets = torch.nn.functional.one_hot(targets, len(self.labels)).to(self.features.pooled)  # [n, c]
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
    """Test images: `features` of n images, and `truth`: their classes, int64 [n], or SeveralLabels.

    No function that trains or chooses settings accepts a Test. Raises ValueError as `Train` does.
    """

    __test__ = False  # keeps pytest from collecting the class

    features: Features
    labels: LabelSet
    truth: Targets

    def __post_init__(self) -> None:
        _check("test", self.features, self.labels, self.truth)

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def targets(self) -> NoReturn:
        """Raise TypeError: only scoring may read the labels of test images, as `truth`."""
        raise TypeError("labels of test images are only for scoring (`truth`); train on Train, choose on Validation")


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
            f"{role} image {row} has class {int(targets[row])} of {len(labels)}; number the classes from 0"
        )

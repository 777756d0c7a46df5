"""Published few-shot protocols: which images are drawn, which are held out, and the cost of trained parameters.

ELEVATER (Li et al., NeurIPS 2022, arXiv 2204.08790) draws 5, 20 and 50 images of every class, with three seeds, and
holds out the first fifth of each class to choose settings; official validation splits remain unused. CoOp (Zhou et
al., 2022, arXiv 2109.01134) draws 1 to 16, with three seeds. All training images are one more setting (full-shot).

For one shot per class, ELEVATER's code draws two images, trains on one and chooses settings on the other. Here one shot
is one labelled image, and none can be held out: heads use their default settings, or raise an error. For multi-label
images ELEVATER draws and splits greedily, without publishing the rule; `draw_shots` and `inner_split` state ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from rag_clip.classifiers.inner_split import judging_rows
from rag_clip.data import Features, LabelSet, SeveralLabels, Targets, Validation
from rag_clip.display import counted
from rag_clip.evaluation.splits import Test, Train, take_features
from rag_clip.support.shots import choose_shared_shots, choose_shots

ELEVATER_SHOTS = (5, 20, 50)
COOP_SHOTS = (1, 2, 4, 8, 16)
SEEDS = (0, 1, 2)
REFERENCE_PARAMETERS = 1e8


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """The images `train` drawn with `seed`: `shots` of each class, or all images of a class that has fewer."""

    shots: int
    seed: int
    train: Train


def few_shot(train: Train, *, shots: Sequence[int], seeds: Sequence[int] = SEEDS) -> Iterator[Draw]:
    """Draw for every number of shots and every seed; with the same seed, a smaller draw is part of a larger one."""
    return (Draw(count, seed, draw_shots(train, shots=count, seed=seed)) for count in shots for seed in seeds)


def draw_shots(train: Train, *, shots: int, seed: int) -> Train:
    """Draw `shots` images of every class without replacement (support.shots), class by class.

    A multi-label image counts for all of its classes, so some classes get more. Raises ValueError for fewer than one.
    """
    return train.take(torch.tensor(_drawn(train.labels, train.targets, shots, seed)))


def inner_split(train: Train) -> tuple[Train, Validation]:
    """Hold out the first ceil(0.2 n_k) of the n_k images of each class to choose settings; a single image stays.

    Multi-label images are split greedily (see `inner_split.judging_rows`). Raises ValueError if no class has two
    images.
    """
    judges = judging_rows(train.targets)
    if not bool(judges.any()):
        raise ValueError("no class has two images, so none can be held out; draw two shots or fix the settings")
    held_out = Validation(take_features(train.features, judges), train.labels, train.targets[judges])
    return train.take(~judges), held_out


def draw_from_whole(
    features: Features, labels: LabelSet, targets: Targets, *, shots: int, seed: int
) -> tuple[Train, Test]:
    """Draw shots from labelled images without a split, and return all other images as the test set.

    features: of n images.
    labels: the c classes.
    targets: the classes of the images, int64 [n] or SeveralLabels.
    shots: images per class.
    seed: of the draw.

    Raises ValueError if no image is left to test on.
    """
    drawn = torch.zeros(len(targets), dtype=torch.bool)
    drawn[_drawn(labels, targets, shots, seed)] = True
    if bool(drawn.all()):
        raise ValueError(
            f"{counted(shots, 'shot')} per class would use all {counted(len(targets), 'image')}; draw fewer, "
            "so that some are left to test on"
        )
    drawn = drawn.to(targets.device)
    train = Train(take_features(features, drawn), labels, targets[drawn])
    return train, Test(take_features(features, ~drawn), labels, targets[~drawn])


def parameter_efficiency(score: float, parameters: int) -> float:
    """Return ELEVATER's score * exp(-log10(parameters / 1e8 + 1)), which hardly lowers scores far below 1e8 parameters.

    Raises ValueError for a negative number of parameters.
    """
    if parameters < 0:
        raise ValueError(f"the number of trained parameters is {parameters}; give one of at least 0")
    return score * math.exp(-math.log10(parameters / REFERENCE_PARAMETERS + 1))


def _drawn(labels: LabelSet, targets: Targets, shots: int, seed: int) -> list[int]:
    if isinstance(targets, SeveralLabels):
        names_of = [[labels.names[column] for column in row.nonzero()[:, 0].tolist()] for row in targets.marks]
        return list(choose_shared_shots(names_of, k=shots, seed=seed).support)
    names = [labels.names[target] for target in targets.tolist()]
    return list(choose_shots(names, k=shots, seed=seed, validation="none").support)

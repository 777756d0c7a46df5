"""Published protocols of few shots: which images are drawn, which of them judge, and what trained numbers cost.

ELEVATER (Li et al., NeurIPS 2022, arXiv 2204.08790) draws 5, 20 and 50 images of every class, three times, and holds
the first fifth of each class out to choose by; official validation splits stay unused. CoOp (Zhou et al., 2022, arXiv
2109.01134) draws 1 to 16, three times. All of the training images are one more setting (full-shot).

Asked for one shot of each class, ELEVATER's code draws two, trains on one and chooses by the other. Here one shot is
one labelled image, and nothing can be held out of it: heads fall back on settings they name, or say that they cannot.
Of images with several labels ELEVATER draws and splits greedily, without saying how; `draw_shots` and `inner_split` say
how it is done here.
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
    """The images `train` drawn by `seed`, `shots` of each class, or all that a class has if fewer."""

    shots: int
    seed: int
    train: Train


def few_shot(train: Train, *, shots: Sequence[int], seeds: Sequence[int] = SEEDS) -> Iterator[Draw]:
    """Draw for every number of shots and every seed; of one seed, fewer shots are the first of more."""
    return (Draw(count, seed, draw_shots(train, shots=count, seed=seed)) for count in shots for seed in seeds)


def draw_shots(train: Train, *, shots: int, seed: int) -> Train:
    """Draw `shots` images of every class without replacement (support.shots), class by class.

    Where images have several labels, an image counts for all of its classes, and some get more. Raises ValueError for
    fewer than one.
    """
    return train.take(torch.tensor(_drawn(train.labels, train.targets, shots, seed)))


def inner_split(train: Train) -> tuple[Train, Validation]:
    """Hold out the first ceil(0.2 n_k) images of each class to choose by; a class of one image keeps it to train.

    Where images have several labels, greedily (see `inner_split.judging_rows`). Raises ValueError where no class has
    two images.
    """
    judges = judging_rows(train.targets)
    if not bool(judges.any()):
        raise ValueError("no class has two images, so none can be held out; draw two shots or fix the settings")
    held = Validation(take_features(train.features, judges), train.labels, train.targets[judges])
    return train.take(~judges), held


def draw_from_whole(
    features: Features, labels: LabelSet, targets: Targets, *, shots: int, seed: int
) -> tuple[Train, Test]:
    """Draw shots from labelled images that have no split, and test on all the others.

    Raises ValueError where nothing is left to test on.
    """
    drawn = torch.zeros(len(targets), dtype=torch.bool)
    drawn[_drawn(labels, targets, shots, seed)] = True
    if bool(drawn.all()):
        raise ValueError(
            f"{counted(shots, 'shot')} per class take all of the {len(targets)} images; draw fewer, "
            "so that some are left to test on"
        )
    drawn = drawn.to(targets.device)
    train = Train(take_features(features, drawn), labels, targets[drawn])
    return train, Test(take_features(features, ~drawn), labels, targets[~drawn])


def parameter_efficiency(score: float, parameters: int) -> float:
    """Return ELEVATER's score * exp(-log10(parameters / 1e8 + 1)): what is trained costs little below 1e8 numbers.

    Raises ValueError for a negative count.
    """
    if parameters < 0:
        raise ValueError(f"{parameters} parameters were trained; a count is not negative")
    return score * math.exp(-math.log10(parameters / REFERENCE_PARAMETERS + 1))


def _drawn(labels: LabelSet, targets: Targets, shots: int, seed: int) -> list[int]:
    if isinstance(targets, SeveralLabels):
        held = [[labels.names[column] for column in row.nonzero()[:, 0].tolist()] for row in targets.marks]
        return list(choose_shared_shots(held, k=shots, seed=seed).support)
    names = [labels.names[target] for target in targets.tolist()]
    return list(choose_shots(names, k=shots, seed=seed, validation="none").support)

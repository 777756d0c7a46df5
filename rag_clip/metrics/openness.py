"""Openness in closed form: how accuracy holds while a vocabulary grows, from one matrix of logits.

Ren et al., "Delving into the Openness of CLIP", Findings of ACL 2023, arXiv 2206.01986, define three measures over
random orders of N groups of classes: Acc-C, the accuracy within each group; Acc-E (extensibility), the accuracy on the
groups added so far, averaged over the steps; Acc-S (stability), the accuracy on one group while the M = N - 1 others
are added.

For an image x with label y, let c(x) = 1 if no other class of y's group scores as high as y, else 0. Let m(x) be the
number of other groups with a class that scores at least as high as y: its thieves. Then, without any sampling,

    Acc-C = mean c        Acc-E = mean c / (m + 1)        Acc-S = mean c (M - m) / (M (m + 1))

Proof. Once x's own group has been added, the number j of other groups added so far is uniform on 0..M, as if a stop
mark were placed at random into a random order of the others. x is still correct if the mark precedes all of its m
thieves, which has probability 1 / (m + 1). Acc-S leaves out j = 0, where x is correct if c(x) = 1:
((M + 1) / (m + 1) - 1) / M; hence (M + 1) Acc-E = Acc-C + M Acc-S.

Means are macro: all classes of a group have equal weight, and so do all groups. The closed form is then exact for any
sizes, and equals the mean over images if all groups and all classes have the same size. The micro form, whose
denominators depend on the order of the groups, is sampled (`sampling.sampled_openness`). Classes and groups without
images act as distractors and enter no mean. A tie counts as an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from rag_clip.data import LabelSet
from rag_clip.display import counted
from rag_clip.metrics.accuracy import check_logits

ROWS = 512


@dataclass(frozen=True, slots=True, eq=False)
class Openness:
    """The three measures and the values per image that they come from.

    acc_c, acc_e, acc_s: in [0, 1].
    by_group: the three for the images of each group, float64 [N, 3]; NaN for a group without images.
    closed: c(x), bool [n].
    thieves: m(x), int64 [n].
    weights: macro weights of the images, float64 [n], which sum to one.
    """

    acc_c: float
    acc_e: float
    acc_s: float
    by_group: torch.Tensor
    closed: torch.Tensor
    thieves: torch.Tensor
    weights: torch.Tensor

    @property
    def count(self) -> int:
        """The number N of groups."""
        return len(self.by_group)


def openness(logits: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor) -> Openness:
    """Return Acc-C, Acc-E and Acc-S of logits [n, c], for targets [n] and the group of each class, int64 [c].

    Raises ValueError for fewer than two groups, for groups that do not cover the classes or are not numbered
    0, 1, 2, ..., and as `check_logits`.
    """
    count = check_groups(logits, targets, groups)
    own = groups[targets]  # [n]
    closed = torch.empty_like(targets, dtype=torch.bool)
    thieves = torch.empty_like(targets, dtype=torch.int64)
    for rows, blocked in blocked_by(logits, targets, groups):
        at_home = blocked.gather(1, own[rows, None])[:, 0]  # [rows] an error within the own group
        closed[rows] = ~at_home
        thieves[rows] = blocked.sum(1) - at_home.long()
    weights = macro_weights(targets, groups)
    extended = closed.double() / (thieves + 1)  # [n]
    steady = extended * (count - 1 - thieves) / (count - 1)  # [n]
    mass = torch.bincount(own, weights=weights, minlength=count)  # [N]
    parts = [torch.bincount(own, weights=weights * part, minlength=count) for part in (closed, extended, steady)]
    acc_c, acc_e, acc_s = (float(part.sum()) for part in parts)
    return Openness(acc_c, acc_e, acc_s, torch.stack(parts, dim=1) / mass[:, None], closed, thieves, weights)


def number_groups(groups: Sequence[str]) -> tuple[tuple[str, ...], torch.Tensor]:
    """Return the group names in order of appearance, and the index of each class's group, int64 [c].

    Raises ValueError for a class without a group.
    """
    for row, name in enumerate(groups):
        if not name.strip():
            raise ValueError(f"class {row} has no group; name a group for every class")
    names = tuple(dict.fromkeys(groups))
    return names, torch.tensor([names.index(name) for name in groups], dtype=torch.int64)


def label_groups(labels: LabelSet) -> tuple[tuple[str, ...], torch.Tensor] | None:
    """Return `number_groups` of the label set; None with fewer than two groups, for which openness is not defined.

    Raises ValueError, naming a class, where some classes have a group and others have none.
    """
    if len(set(labels.groups)) < 2:
        return None
    missing = [name for name, group in zip(labels.names, labels.groups, strict=True) if not group.strip()]
    if missing:
        raise ValueError(
            f"{counted(len(missing), 'class')} without a group, such as {missing[0]!r}; "
            "name a group for every class, or for none"
        )
    return number_groups(labels.groups)


def check_groups(logits: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor) -> int:
    """Return the number of groups; raises the errors of `openness`."""
    check_logits(logits, targets)
    if groups.shape != (logits.shape[1],):
        raise ValueError(
            f"groups have shape {tuple(groups.shape)} for {counted(logits.shape[1], 'class')}; give the group of "
            "every class"
        )
    if groups.dtype != torch.int64 or int(groups.min()) < 0:
        raise ValueError(f"groups are {groups.dtype} from {groups.min()}; number them 0, 1, 2, ... as int64")
    sizes = torch.bincount(groups)
    if bool((sizes == 0).any()):
        raise ValueError(f"group {int((sizes == 0).nonzero()[0])} holds no class; number the groups without gaps")
    if len(sizes) < 2:
        raise ValueError("all classes are in one group; openness needs at least two groups")
    return len(sizes)


def blocked_by(
    logits: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield (rows, bool [rows, N]): whether a group has a class, not the label, that scores at least as high."""
    count = int(groups.max()) + 1
    for start in range(0, len(logits), ROWS):
        rows = slice(start, min(start + ROWS, len(logits)))
        labels = targets[rows, None].long()
        above = logits[rows] >= logits[rows].gather(1, labels)  # [rows, c]
        above.scatter_(1, labels, False)
        images, columns = above.nonzero(as_tuple=True)
        blocked = above.new_zeros(len(above), count)
        blocked[images, groups[columns]] = True
        yield rows, blocked


def macro_weights(targets: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Return macro weights, float64 [n], which sum to one.

    All groups with images have equal weight, and within a group all classes with images.
    """
    images = torch.bincount(targets, minlength=len(groups))
    classes = torch.bincount(groups[images > 0], minlength=int(groups.max()) + 1)
    share = 1.0 / ((classes > 0).sum() * classes[groups] * images).double()
    return share[targets]

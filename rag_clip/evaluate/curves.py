"""Expected accuracy against the size of the vocabulary, in closed form, and who takes the images that are lost.

With j of the M other groups known, drawn at random, an image with m thieves among them is right with the
hypergeometric probability C(M - m, j) / C(M, j) if it is right at home. Both curves of the paper (arXiv 2206.01986)
have this expected value: Acc-E is its mean over j = 0..M and Acc-S over j = 1..M (`openness`, macro).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from rag_clip.evaluate.metrics import check_logits, count_above
from rag_clip.evaluate.openness import Openness, blocked_by, check_groups, macro_weights, openness
from rag_clip.evaluate.uncertainty import Interval, bootstrap


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Expected `accuracy` float64 [k] with 1, 2, ..., k groups (or classes) known, `sizes` int64 [k]."""

    sizes: torch.Tensor
    accuracy: torch.Tensor


def group_curve(logits: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor) -> Curve:
    """Return the curve for whole groups added in random order, its first value Acc-C; raises as `openness`."""
    found = openness(logits, targets, groups)
    return _curve(found.thieves, found.weights * found.closed, found.count)


def class_curve(logits: torch.Tensor, targets: torch.Tensor) -> Curve:
    """Return the curve for single classes added in random order, classes alike: from 1 to the mean per class."""
    check_logits(logits, targets)
    classes = logits.shape[1]
    weights = macro_weights(targets, torch.arange(classes, device=targets.device))
    return _curve(count_above(logits, targets), weights, classes)


@dataclass(frozen=True, slots=True)
class OpennessIntervals:
    """The intervals of Acc-C, Acc-E and Acc-S, and of expected accuracy with 1, 2, ..., N groups known."""

    acc_c: Interval
    acc_e: Interval
    acc_s: Interval
    curve: tuple[Interval, ...]


def openness_intervals(
    found: Openness, targets: torch.Tensor, groups: torch.Tensor, *, draws: int = 200, seed: int = 0
) -> OpennessIntervals:
    """Return the intervals of what `openness` found for targets [n], the images drawn again within each class.

    Vocabularies are not drawn: the numbers are means over all of their orders.
    """
    targets, groups, closed, thieves = (each.cpu() for each in (targets, groups, found.closed, found.thieves))
    survival = torch.stack(list(_survival(found.count)))

    def measure(rows: torch.Tensor) -> list[float]:
        weights = macro_weights(targets[rows], groups) * closed[rows]
        curve = survival @ torch.bincount(thieves[rows], weights=weights, minlength=found.count)
        return [float(curve[0]), float(curve.mean()), float(curve[1:].mean()), *curve.tolist()]

    acc_c, acc_e, acc_s, *curve = bootstrap(measure, len(targets), strata=targets, draws=draws, seed=seed)
    return OpennessIntervals(acc_c, acc_e, acc_s, tuple(curve))


@dataclass(frozen=True, slots=True, eq=False)
class Thieves:
    """Who scores at least as high as the label, by the label's class.

    `mean` float64 [c] is the mean m of a class' images, `groups` float64 [c, N] the share of them that a group takes
    (its own group too), both NaN for a class without images; `classes` int64 [c, c] counts images by label (rows) and
    taking class (columns).
    """

    mean: torch.Tensor
    groups: torch.Tensor
    classes: torch.Tensor


def find_thieves(logits: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor) -> Thieves:
    """Count which groups and classes take the images of which class; raises as `openness`."""
    count, classes = check_groups(logits, targets, groups), logits.shape[1]
    by_group = torch.zeros(classes, count, dtype=torch.float64, device=logits.device)
    by_class = torch.zeros(classes, classes, dtype=torch.int64, device=logits.device)
    for rows, blocked in blocked_by(logits, targets, groups):
        labels = targets[rows]
        by_group.index_add_(0, labels, blocked.double())
        above = logits[rows] >= logits[rows].gather(1, labels[:, None].long())
        by_class.index_add_(0, labels, above.scatter_(1, labels[:, None].long(), False).long())
    shares = by_group / torch.bincount(targets, minlength=classes)[:, None]
    at_home = shares.gather(1, groups[:, None])[:, 0]
    return Thieves(shares.sum(1) - at_home, shares, by_class)


def _curve(thieves: torch.Tensor, weights: torch.Tensor, count: int) -> Curve:
    mass = torch.bincount(thieves, weights=weights, minlength=count)
    accuracy = [mass @ survive.to(mass.device) for survive in _survival(count)]
    return Curve(torch.arange(1, count + 1, device=mass.device), torch.stack(accuracy))


def _survival(count: int) -> Iterator[torch.Tensor]:
    """Yield, for j = 0, 1, ... others known, the probability float64 [count] that none of m = 0, 1, ... thieves is."""
    free = count - 1 - torch.arange(count, dtype=torch.float64)
    survive = torch.ones_like(free)
    yield survive
    for added in range(1, count):
        # C(M - m, j) / C(M, j) from its value for j - 1; it stays 0 once j exceeds M - m.
        survive = survive * (free - added + 1).clamp(min=0) / (count - added)
        yield survive

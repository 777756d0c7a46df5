"""Expected accuracy against the size of the vocabulary, in closed form, and who takes the images that are lost.

With j of the M other groups known, drawn at random, an image with m thieves among them is right with the
hypergeometric probability C(M - m, j) / C(M, j) if it is right at home. Both curves of the paper (arXiv 2206.01986)
have this expected value: Acc-E is its mean over j = 0..M and Acc-S over j = 1..M (`openness`, macro).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from rag_clip.metrics.accuracy import check_logits, count_above
from rag_clip.metrics.openness import Openness, blocked_by, check_groups, macro_weights, openness
from rag_clip.metrics.uncertainty import Interval, bootstrap


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
    survival = torch.stack(list(_survival(found.count, targets.device)))

    def measure(rows: torch.Tensor) -> list[float]:
        weights = macro_weights(targets[rows], groups) * closed[rows]
        curve = survival @ torch.bincount(thieves[rows], weights=weights, minlength=found.count)
        return [float(curve[0]), float(curve.mean()), float(curve[1:].mean()), *curve.tolist()]

    acc_c, acc_e, acc_s, *curve = bootstrap(measure, len(targets), strata=targets, draws=draws, seed=seed)
    return OpennessIntervals(acc_c, acc_e, acc_s, tuple(curve))


@dataclass(frozen=True, slots=True, eq=False)
class Thieves:
    """Which groups score at least as high as the label, by the label's class.

    `mean` float64 [c] is the mean m of a class' images, `groups` float64 [c, N] the share of them that a group takes
    (its own group too), both NaN for a class without images.
    """

    mean: torch.Tensor
    groups: torch.Tensor


def find_thieves(logits: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor) -> Thieves:
    """Count which groups take the images of which class; raises as `openness`."""
    count, classes = check_groups(logits, targets, groups), logits.shape[1]
    by_group = torch.zeros(classes, count, dtype=torch.float64, device=logits.device)
    for rows, blocked in blocked_by(logits, targets, groups):
        by_group.index_add_(0, targets[rows], blocked.double())
    shares = by_group / torch.bincount(targets, minlength=classes)[:, None]
    at_home = shares.gather(1, groups[:, None])[:, 0]
    return Thieves(shares.sum(1) - at_home, shares)


@dataclass(frozen=True, slots=True)
class Taken:
    """Class `thief` scores at least as high as `label` for `images` of that class, a `share` of them."""

    label: int
    thief: int
    images: int
    share: float


def most_taken(
    logits: torch.Tensor, targets: torch.Tensor, *, most: int = 50, of_label: int | None = None
) -> tuple[Taken, ...]:
    """List the `most` pairs of a label and a class that takes the greatest share of its images, equals in class order.

    With `of_label`, no more than so many of a label. Of every label the counts of so many classes are held, of `most`
    without it, never [c, c]. Raises as `metrics.check_logits`.
    """
    check_logits(logits, targets)
    classes, own = logits.shape[1], logits.gather(1, targets[:, None].long())
    images = torch.bincount(targets, minlength=classes)
    backwards = torch.arange(classes - 1, -1, -1, device=logits.device)
    kept = []
    for label, rows in enumerate(torch.split(targets.argsort(stable=True), images.tolist())):
        counts = (logits[rows] >= own[rows]).sum(0)
        counts[label] = 0
        # Of counts that tie, topk may keep any; these keys differ, and the first class has the greatest.
        kept.append((counts * classes + backwards).topk(min(of_label or most, classes)).values)
    keys = torch.stack(kept)  # [c, most]
    counts, thieves = (keys // classes).flatten(), (classes - 1 - keys % classes).flatten()
    shares = (keys // classes / images[:, None].clamp(min=1).double()).flatten()
    places = shares.argsort(descending=True, stable=True)[:most]
    labels = places // keys.shape[1]
    columns = (each.tolist() for each in (labels, thieves[places], counts[places], shares[places]))
    return tuple(Taken(*pair) for pair in zip(*columns, strict=True) if pair[2])


def _curve(thieves: torch.Tensor, weights: torch.Tensor, count: int) -> Curve:
    mass = torch.bincount(thieves, weights=weights, minlength=count)
    accuracy = [mass @ survive for survive in _survival(count, mass.device)]
    return Curve(torch.arange(1, count + 1, device=mass.device), torch.stack(accuracy))


def _survival(count: int, device: torch.device) -> Iterator[torch.Tensor]:
    """Yield, for j = 0, 1, ... others known, the probability float64 [count] that none of m = 0, 1, ... thieves is."""
    free = count - 1 - torch.arange(count, dtype=torch.float64, device=device)
    survive = torch.ones_like(free)
    yield survive
    for added in range(1, count):
        # C(M - m, j) / C(M, j) from its value for j - 1; it stays 0 once j exceeds M - m.
        survive = survive * (free - added + 1).clamp(min=0) / (count - added)
        yield survive

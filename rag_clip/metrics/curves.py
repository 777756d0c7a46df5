"""Expected accuracy as a function of vocabulary size, in closed form, and which classes the lost images go to.

A thief of an image is another group (or class) that scores at least as high as the label. With j of the M other groups
added at random, an image with m thieves that is correct within its own group stays correct with the hypergeometric
probability C(M - m, j) / C(M, j). This is the expected value of both curves of the paper (arXiv 2206.01986): Acc-E is
its mean over j = 0..M and Acc-S over j = 1..M (`openness`, macro).
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
    """Expected `accuracy` float64 [k] with `sizes` int64 [k] = 1, 2, ..., k groups (or classes) in the vocabulary."""

    sizes: torch.Tensor
    accuracy: torch.Tensor


def group_curve(logits: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor) -> Curve:
    """Return the curve for groups added in random order; its first value is Acc-C. Raises as `openness`."""
    found = openness(logits, targets, groups)
    return _curve(found.thieves, found.weights * found.closed, found.count)


def class_curve(logits: torch.Tensor, targets: torch.Tensor) -> Curve:
    """Return the curve for classes added in random order (macro): from 1 down to the mean accuracy per class."""
    check_logits(logits, targets)
    classes = logits.shape[1]
    weights = macro_weights(targets, torch.arange(classes, device=targets.device))
    return _curve(count_above(logits, targets), weights, classes)


@dataclass(frozen=True, slots=True)
class OpennessIntervals:
    """Intervals of Acc-C, Acc-E and Acc-S, and of the expected accuracy with 1, 2, ..., N groups."""

    acc_c: Interval
    acc_e: Interval
    acc_s: Interval
    curve: tuple[Interval, ...]


def openness_intervals(
    found: Openness, targets: torch.Tensor, groups: torch.Tensor, *, draws: int = 200, seed: int = 0
) -> OpennessIntervals:
    """Return bootstrap intervals of the result of `openness` for targets [n], resampling images within each class.

    Vocabularies are not resampled: the measures are means over all orders of the groups.
    """
    targets, groups, closed, thieves = (each.cpu() for each in (targets, groups, found.closed, found.thieves))
    survival = torch.stack(list(_survival(found.count, targets.device)))  # [N, N]: j groups added, m thieves

    def measure(rows: torch.Tensor) -> list[float]:
        weights = macro_weights(targets[rows], groups) * closed[rows]
        curve = survival @ torch.bincount(thieves[rows], weights=weights, minlength=found.count)
        return [float(curve[0]), float(curve.mean()), float(curve[1:].mean()), *curve.tolist()]

    acc_c, acc_e, acc_s, *curve = bootstrap(measure, len(targets), strata=targets, draws=draws, seed=seed)
    return OpennessIntervals(acc_c, acc_e, acc_s, tuple(curve))


@dataclass(frozen=True, slots=True, eq=False)
class Thieves:
    """Which groups score at least as high as the label, by the label's class.

    `mean` float64 [c] is the mean number m of thieves of a class's images. `groups` float64 [c, N] is the share of its
    images for which the group scores at least as high (its own group too). Both are NaN for a class without images.
    """

    mean: torch.Tensor
    groups: torch.Tensor


def find_thieves(logits: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor) -> Thieves:
    """Count, by class, for how many images each group scores at least as high as the label; raises as `openness`."""
    count, classes = check_groups(logits, targets, groups), logits.shape[1]
    by_group = torch.zeros(classes, count, dtype=torch.float64, device=logits.device)
    for rows, blocked in blocked_by(logits, targets, groups):
        by_group.index_add_(0, targets[rows], blocked.double())
    shares = by_group / torch.bincount(targets, minlength=classes)[:, None]
    at_home = shares.gather(1, groups[:, None])[:, 0]  # [c] share lost within the own group
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
    """List the `most` (label, thief) pairs by the share of the label's images; equal shares come in class order.

    `of_label` limits the pairs per label. Memory is c times `of_label` (or `most`), never [c, c].
    Raises as `metrics.check_logits`.
    """
    check_logits(logits, targets)
    classes, own = logits.shape[1], logits.gather(1, targets[:, None].long())  # own [n, 1]
    images = torch.bincount(targets, minlength=classes)
    backwards = torch.arange(classes - 1, -1, -1, device=logits.device)
    kept = []
    for label, rows in enumerate(torch.split(targets.argsort(stable=True), images.tolist())):
        counts = (logits[rows] >= own[rows]).sum(0)
        counts[label] = 0
        # topk breaks ties arbitrarily, so each count gets a unique key that is greatest for the first class.
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
    """Yield, for j = 0, 1, ... groups added, the probability that none of m = 0, 1, ... thieves is, float64 [count]."""
    free = count - 1 - torch.arange(count, dtype=torch.float64, device=device)
    survive = torch.ones_like(free)
    yield survive
    for added in range(1, count):
        # C(M - m, j) / C(M, j) from its value at j - 1, without factorials; it stays 0 once j exceeds M - m.
        survive = survive * (free - added + 1).clamp(min=0) / (count - added)
        yield survive

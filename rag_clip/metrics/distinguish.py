"""How well a prompt set separates its classes, from the class weights alone: no labels, no images.

For unit class weights w_c [c, d] and the encoder's scale s:

    uniformity = log mean_{c != c'} exp(-2 |w_c - w_c'|^2)              Wang and Isola, 2020 (arXiv 2005.10242)
    confusion  = mean_c [ 1 - softmax_c'(s * cos(w_c, w_c'))_c ]

Lower means more distinct for both. The confusion is the expected error probability on images that lie exactly on their
class weight. Distinct does not mean accurate: neither measure knows where the images lie, and random texts can give the
most distinct classes of all. Compare prompt sets of the same method only, and compare with a control.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from rag_clip.data import LabelSet
from rag_clip.display import counted

CELLS = 1 << 22  # cosines at once
NEIGHBOURS = 5


@dataclass(frozen=True, slots=True)
class ClassPair:
    """Two classes and the cosine of their weights."""

    first: str
    second: str
    cosine: float


@dataclass(frozen=True, slots=True)
class Distinguishability:
    """Uniformity (None for a single class, which has no pair), expected confusion in [0, 1], and the closest pairs."""

    uniformity: float | None
    confusion: float
    closest: tuple[ClassPair, ...]


@dataclass(frozen=True, slots=True)
class PairShift:
    """Two classes and the cosine of their weights before and after; `change` is below 0 where they moved apart."""

    first: str
    second: str
    before: float
    after: float
    change: float


@dataclass(frozen=True, slots=True)
class Separation:
    """How the cosines of close class pairs changed.

    pairs: number of close pairs.
    apart: those whose cosine fell.
    mean_change: of their cosines.
    most, least: the pairs that moved apart most, and least (or closer), the most extreme first.
    """

    pairs: int
    apart: int
    mean_change: float
    most: tuple[PairShift, ...]
    least: tuple[PairShift, ...]


@torch.no_grad()
def distinguishability(
    weights: torch.Tensor, scale: float, labels: LabelSet, *, pairs: int = 10, cells: int = CELLS
) -> Distinguishability:
    """Return uniformity, expected confusion and the `pairs` closest classes for class weights [c, d] of any length.

    About `cells` cosines are held at once: memory grows with c, not with its square.
    Raises ValueError for a scale that is not above 0, and unless there is
    one row per label.
    """
    _check(weights, labels)
    if not 0 < scale < math.inf:
        raise ValueError(f"the scale is {scale}; give the encoder's, a number above 0")
    confused, near = 0.0, 0.0
    closest: list[tuple[float, int, int]] = []
    for start, cosines in _blocks(weights, cells):
        own = cosines.diagonal(start).clone()  # [b]
        others = _without_own(cosines, start)  # [b, c]
        rivals = (scale * others).logsumexp(dim=1)  # [b]
        confused += float((rivals - scale * own).sigmoid().sum(dtype=torch.float64))  # rivals / (rivals + own)
        near += float((4 * others - 4).exp().sum(dtype=torch.float64))  # |w - w'|^2 = 2 - 2 cos
        closest = sorted([*closest, *_closest(others, start, pairs)], key=lambda pair: (-pair[0], *pair[1:]))[:pairs]
    count = len(weights)
    return Distinguishability(
        uniformity=math.log(near / (count * (count - 1))) if count > 1 else None,
        confusion=confused / count,
        closest=tuple(ClassPair(labels.names[row], labels.names[other], cosine) for cosine, row, other in closest),
    )


@torch.no_grad()
def separation(
    before: torch.Tensor, after: torch.Tensor, labels: LabelSet, *, pairs: int = 10, cells: int = CELLS
) -> Separation:
    """Compare two sets of class weights [c, d] on the close pairs: a class and one of its five nearest, in either set.

    Names the `pairs` pairs that moved apart most and least; with few pairs, the two lists may overlap. About `cells`
    cosines are held at once. Raises
    ValueError unless there is one row per label.
    """
    _check(before, labels)
    _check(after, labels)
    near = torch.unique(torch.cat([_nearest_pairs(before, cells), _nearest_pairs(after, cells)]), dim=0)  # [p, 2]
    cosines = [_pair_cosines(weights, near, cells) for weights in (before, after)]
    change = cosines[1] - cosines[0]  # [p]
    order = change.argsort(stable=True)
    most, least = (
        tuple(_shift(labels, near[row].tolist(), float(cosines[0][row]), float(cosines[1][row])) for row in rows)
        for rows in (order[:pairs].tolist(), order.flip(0)[:pairs].tolist())
    )
    mean = float(change.mean()) if len(change) else 0.0
    return Separation(len(near), int((change < 0).sum()), mean, most, least)


def _check(weights: torch.Tensor, labels: LabelSet) -> None:
    if weights.ndim != 2 or len(weights) != len(labels):
        raise ValueError(
            f"class weights {tuple(weights.shape)} for {counted(len(labels), 'label')}; give one row per label"
        )


def _blocks(weights: torch.Tensor, cells: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (first row, cosines [b, c]) for blocks of b classes against all."""
    weights = normalize(weights.float())
    rows = max(1, cells // len(weights))
    for start in range(0, len(weights), rows):
        yield start, weights[start : start + rows] @ weights.T


def _without_own(cosines: torch.Tensor, start: int) -> torch.Tensor:
    """Set each class's cosine with itself to minus infinity, in place."""
    cosines.diagonal(start).fill_(-math.inf)
    return cosines


def _closest(others: torch.Tensor, start: int, count: int) -> list[tuple[float, int, int]]:
    """Return the closest pairs of a block as (cosine, class, later class)."""
    columns = torch.arange(others.shape[1], device=others.device)
    rows = torch.arange(start, start + len(others), device=others.device)
    later = others.masked_fill(columns <= rows[:, None], -math.inf)  # [b, c]; each pair once
    best = later.amax(dim=1).topk(min(count, len(later))).indices  # the closest pairs lie in these rows
    values, places = later[best].flatten().topk(min(count, len(best) * len(columns)))
    return [
        (cosine, int(rows[best[place // len(columns)]]), place % len(columns))
        for cosine, place in zip(values.tolist(), places.tolist(), strict=True)
        if cosine > -math.inf
    ]


def _nearest_pairs(weights: torch.Tensor, cells: int) -> torch.Tensor:
    """Return pairs [p, 2] of each class with its nearest other classes, the lower index first; pairs may repeat."""
    count = min(NEIGHBOURS, len(weights) - 1)
    parts = []
    for start, cosines in _blocks(weights, cells):
        others = _without_own(cosines, start).topk(count, dim=1).indices  # [b, neighbours]
        rows = torch.arange(start, start + len(cosines), device=cosines.device)[:, None].expand_as(others)
        parts.append(torch.stack([rows, others], dim=-1).flatten(0, 1))
    return torch.cat(parts).sort(dim=1).values


def _pair_cosines(weights: torch.Tensor, pairs: torch.Tensor, cells: int) -> torch.Tensor:
    weights = normalize(weights)
    split = torch.split(pairs, max(1, cells // weights.shape[1]))
    parts = [(weights[part[:, 0]] * weights[part[:, 1]]).sum(dim=1) for part in split]
    return torch.cat(parts).cpu().double()


def _shift(labels: LabelSet, pair: list[int], before: float, after: float) -> PairShift:
    return PairShift(labels.names[pair[0]], labels.names[pair[1]], before, after, after - before)

"""Adversarial vocabulary: which additional names cost the most accuracy, one at a time and as a set.

After Ren et al., Findings of ACL 2023, arXiv 2206.01986, who add each word of a list to the vocabulary as one more
class and evaluate again. A correct image is lost to a name exactly if f'w_name >= f'w_label, whatever else is in the
vocabulary. So one matrix product of the correct images with all names gives the effect of every name at once. The
images that a set of names takes are the union of those that its names take. The greedy set, computed exactly, takes at
least 1 - 1/e of the images that the best set of its size takes (Nemhauser, Wolsey & Fisher, 1978).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rag_clip.display import counted
from rag_clip.metrics.accuracy import is_right

CELLS = 2**25
LAZY = 64


@dataclass(frozen=True, slots=True, eq=False)
class AdversarialNames:
    """The effect of v candidate names on the accuracy of n images.

    accuracy: without any candidate.
    takes: correct images that each name takes, int64 [v].
    worst: the names that take the most images, the worst first, int64 [count].
    single_accuracy: accuracy with that one name added, float64 [count].
    chosen: names of the greedy set in order, int64, at most count; fewer once no correct image can be taken any more.
    set_accuracy: accuracy after each of them, float64.
    certified: accuracy with all v names added; no set of these names can lower it further.
    """

    accuracy: float
    takes: torch.Tensor
    worst: torch.Tensor
    single_accuracy: torch.Tensor
    chosen: torch.Tensor
    set_accuracy: torch.Tensor
    certified: float


@torch.no_grad()
def adversarial_names(
    features: torch.Tensor,
    targets: torch.Tensor,
    class_weights: torch.Tensor,
    candidate_weights: torch.Tensor,
    *,
    speaks: torch.Tensor | None = None,
    count: int = 10,
    cells: int = CELLS,
) -> AdversarialNames:
    """Find the `count` names that cost the most accuracy.

    features: image features, [n, d].
    targets: classes of the images, int64 [n].
    class_weights: [c, d].
    candidate_weights: [v, d], without class names and synonyms, which would tie with the label or be correct.
    speaks: class that a candidate describes, int64 [v], -1 for none. "pink flamingo" is correct for a flamingo, so it
        takes no image of one.
    count: names to find.
    cells: scores of images and candidates to hold in memory at once.

    Scores that differ only by rounding count as ties. Raises ValueError for count below 1, no candidate, widths or
    lengths that differ, values that are not finite, and as `metrics.check_logits`.
    """
    speaks = torch.full((len(candidate_weights),), -1, device=targets.device) if speaks is None else speaks
    _check(features, class_weights, candidate_weights, speaks, count)
    features, class_weights, candidates = (
        rows.to(torch.promote_types(rows.dtype, torch.float32)) for rows in (features, class_weights, candidate_weights)
    )
    logits = features @ class_weights.T  # [n, c]
    right = is_right(logits, targets)
    rows = features[right]  # [r, d]
    longest = float(candidates.norm(dim=1).max())
    # Two dot products of equal value may differ by a few eps times the lengths; such scores must tie.
    rounding = 8 * torch.finfo(rows.dtype).eps * longest * rows.norm(dim=1)  # [r]
    bar = logits[right].gather(1, targets[right, None].long())[:, 0] - rounding  # [r]
    images_right = _Right(rows, bar, targets[right])
    takes, safe = _take_singly(images_right, candidates, speaks, cells)
    worst = takes.argsort(descending=True, stable=True)[:count]
    chosen, gains = _choose_greedily(images_right, candidates, speaks, takes, count)
    images, kept = len(targets), len(rows)
    return AdversarialNames(
        kept / images,
        takes,
        worst,
        (kept - takes[worst]).double() / images,
        chosen,
        (kept - gains.cumsum(0)).double() / images,
        safe / images,
    )


def _check(
    features: torch.Tensor, classes: torch.Tensor, candidates: torch.Tensor, speaks: torch.Tensor, count: int
) -> None:
    if count < 1 or len(candidates) == 0:
        raise ValueError(
            f"{counted(count, 'name')} wanted of {counted(len(candidates), 'candidate')}; there must be one of each "
            "at least"
        )
    if speaks.shape != (len(candidates),):
        raise ValueError(
            f"`speaks` is {tuple(speaks.shape)} for {counted(len(candidates), 'candidate')}; give a class or -1 each"
        )
    widths = [rows.shape[1] for rows in (features, classes, candidates)]
    if len(set(widths)) > 1:
        raise ValueError(f"features, classes and candidates have widths {widths}; encode all with one encoder")
    for name, rows in (("feature", features), ("class", classes), ("candidate", candidates)):
        finite = rows.isfinite().all(1)
        if not bool(finite.all()):
            raise ValueError(f"the {name} vector of row {int((~finite).nonzero()[0])} is not finite; encode it again")


@dataclass(frozen=True, slots=True, eq=False)
class _Right:
    """The correct images: features `rows` [r, d], the lowest score that takes each, `bar` [r], and `classes` [r]."""

    rows: torch.Tensor
    bar: torch.Tensor
    classes: torch.Tensor

    def taken(self, names: torch.Tensor, speaks: torch.Tensor) -> torch.Tensor:
        """Return whether each name takes each image, bool [v, r]."""
        taken = names @ self.rows.T >= self.bar
        return taken if bool((speaks < 0).all()) else taken & (speaks[:, None] != self.classes)

    def left_by(self, name: torch.Tensor, speaks: torch.Tensor) -> _Right:
        """Return the images that stay correct once a name is added."""
        left = ~self.taken(name[None], speaks[None])[0]
        return _Right(self.rows[left], self.bar[left], self.classes[left])


def _take_singly(right: _Right, candidates: torch.Tensor, speaks: torch.Tensor, cells: int) -> tuple[torch.Tensor, int]:
    """Return how many images each candidate takes, and how many images no candidate takes."""
    takes = torch.zeros(len(candidates), dtype=torch.int64, device=right.rows.device)
    lost = torch.zeros(len(right.rows), dtype=torch.bool, device=right.rows.device)
    block = max(1, cells // max(len(right.rows), 1))
    for start in range(0, len(candidates), block):
        taken = right.taken(candidates[start : start + block], speaks[start : start + block])
        takes[start : start + block] = taken.sum(1)
        lost |= taken.any(0)
    return takes, int((~lost).sum())


def _choose_greedily(
    right: _Right, candidates: torch.Tensor, speaks: torch.Tensor, takes: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the greedy set and the images that each of its names adds.

    Gains only fall as the set grows, so gains from earlier rounds are upper bounds, and few are computed again.
    """
    bounds = takes.clone()
    chosen: list[int] = []
    gains: list[int] = []
    while len(chosen) < min(count, len(candidates)):
        fresh: set[int] = set()
        while (best := int(bounds.argmax())) not in fresh:
            # topk and argmax may break ties differently, so the argmax is added.
            stale = torch.cat([bounds.topk(min(LAZY, len(bounds))).indices, bounds.argmax()[None]])
            bounds[stale] = right.taken(candidates[stale], speaks[stale]).sum(1)
            fresh.update(stale.tolist())
        if int(bounds[best]) == 0:
            break
        chosen.append(best)
        gains.append(int(bounds[best]))
        right = right.left_by(candidates[best], speaks[best])
    picked = takes.new_tensor([chosen, gains])
    return picked[0], picked[1]

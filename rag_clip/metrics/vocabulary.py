"""Adversarial vocabulary: which further names would take the most images, one at a time and as a set.

After Ren et al., Findings of ACL 2023, arXiv 2206.01986, who add each word of a list to the vocabulary as one more
class and evaluate again. An image that is right is lost to a name exactly where f'w_name >= f'w_label, whatever else
is in the vocabulary; so one matrix product of the right images with all names answers for every name at once. What a
set takes is the union of what its names take, and the greedy choice, exact here, takes at least 1 - 1/e of what any
set of its size can (Nemhauser, Wolsey & Fisher, 1978).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rag_clip.metrics.accuracy import is_right

CELLS = 2**25
LAZY = 64


@dataclass(frozen=True, slots=True, eq=False)
class AdversarialNames:
    """What v candidate names do to n images, of which `accuracy` were right before.

    `takes` int64 [v] counts the right images that a name takes; `worst` int64 [count] are the names that take most,
    most first, and `single_accuracy` float64 [count] what each leaves. `chosen` int64, at most count, are the names of
    the greedy set in order, with the accuracy left after each, `set_accuracy`; it ends early where nothing is left to
    take. `certified` is the accuracy left by all v names at once: its images no name and no set of these names takes.
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
) -> AdversarialNames:
    """Find the `count` worst names for features [n, d], targets [n], class weights [c, d] and candidates' [v, d].

    Leave the class names and their synonyms out of the candidates: they tie with the label or are right themselves.
    `speaks` int64 [v] is the class that a candidate speaks of, -1 for none: "pink flamingo" is right of a flamingo, and
    takes no image of one. Scores that differ by rounding alone count as ties. Raises ValueError for count below 1, no
    candidate, widths or lengths that differ, values that are not finite, and as `metrics.check_logits`.
    """
    speaks = torch.full((len(candidate_weights),), -1, device=targets.device) if speaks is None else speaks
    _check(features, class_weights, candidate_weights, speaks, count)
    features, class_weights, candidates = (
        rows.to(torch.promote_types(rows.dtype, torch.float32)) for rows in (features, class_weights, candidate_weights)
    )
    logits = features @ class_weights.T
    right = is_right(logits, targets)
    rows = features[right]
    longest = float(candidates.norm(dim=1).max())
    rounding = 8 * torch.finfo(rows.dtype).eps * longest * rows.norm(dim=1)
    bar = logits[right].gather(1, targets[right, None].long())[:, 0] - rounding
    held = _Right(rows, bar, targets[right])
    takes, safe = _take_singly(held, candidates, speaks)
    worst = takes.argsort(descending=True, stable=True)[:count]
    chosen, gains = _choose_greedily(held, candidates, speaks, takes, count)
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
        raise ValueError(f"{count} names wanted of {len(candidates)} candidates; there must be one of each at least")
    if speaks.shape != (len(candidates),):
        raise ValueError(f"`speaks` is {tuple(speaks.shape)} for {len(candidates)} candidates; give a class or -1 each")
    widths = [rows.shape[1] for rows in (features, classes, candidates)]
    if len(set(widths)) > 1:
        raise ValueError(f"features, classes and candidates have widths {widths}; encode all with one encoder")
    for name, rows in (("feature", features), ("class", classes), ("candidate", candidates)):
        finite = rows.isfinite().all(1)
        if not bool(finite.all()):
            raise ValueError(f"the {name} vector of row {int((~finite).nonzero()[0])} is not finite; encode it again")


@dataclass(frozen=True, slots=True, eq=False)
class _Right:
    """The images that are right: features [r, d], the score [r] that takes one, and their classes [r]."""

    rows: torch.Tensor
    bar: torch.Tensor
    classes: torch.Tensor

    def taken(self, names: torch.Tensor, speaks: torch.Tensor) -> torch.Tensor:
        """Return bool [v, r]: whether a name takes an image."""
        taken = names @ self.rows.T >= self.bar
        return taken if bool((speaks < 0).all()) else taken & (speaks[:, None] != self.classes)

    def left_by(self, name: torch.Tensor, speaks: torch.Tensor) -> _Right:
        """Return the images that a name leaves."""
        left = ~self.taken(name[None], speaks[None])[0]
        return _Right(self.rows[left], self.bar[left], self.classes[left])


def _take_singly(held: _Right, candidates: torch.Tensor, speaks: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return how many images each candidate takes, and how many images no candidate takes."""
    takes = torch.zeros(len(candidates), dtype=torch.int64, device=held.rows.device)
    lost = torch.zeros(len(held.rows), dtype=torch.bool, device=held.rows.device)
    block = max(1, CELLS // max(len(held.rows), 1))
    for start in range(0, len(candidates), block):
        taken = held.taken(candidates[start : start + block], speaks[start : start + block])
        takes[start : start + block] = taken.sum(1)
        lost |= taken.any(0)
    return takes, int((~lost).sum())


def _choose_greedily(
    held: _Right, candidates: torch.Tensor, speaks: torch.Tensor, takes: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pick what takes most of what is left; a gain only falls as the set grows, so old gains bound the new ones."""
    bounds = takes.clone()
    chosen: list[int] = []
    gains: list[int] = []
    while len(chosen) < min(count, len(candidates)):
        fresh: set[int] = set()
        while (best := int(bounds.argmax())) not in fresh:
            # Of names that tie, topk and argmax may name different ones.
            stale = torch.cat([bounds.topk(min(LAZY, len(bounds))).indices, bounds.argmax()[None]])
            bounds[stale] = held.taken(candidates[stale], speaks[stale]).sum(1)
            fresh.update(stale.tolist())
        if int(bounds[best]) == 0:
            break
        chosen.append(best)
        gains.append(int(bounds[best]))
        held = held.left_by(candidates[best], speaks[best])
    picked = takes.new_tensor([chosen, gains])
    return picked[0], picked[1]

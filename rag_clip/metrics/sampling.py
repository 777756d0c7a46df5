"""Openness over random orders of the groups, sampled and averaged as in the paper, for comparison with its numbers.

Ren et al., Findings of ACL 2023, arXiv 2206.01986, as in their released evaluation: each group comes first in `trials`
orders, the others follow at random. Extensibility is the mean accuracy over all N steps, including the first group
alone. Stability is the mean, over the last N - 1 steps, of the first group's mean per-class recall. Trials are
averaged, then groups. So Acc-C and Acc-E are micro averages (over images) and Acc-S is macro (over classes).

The closed form (`openness.openness`), macro in all three, is always the expected value of Acc-S. It is that of Acc-C
and Acc-E if all groups, and all classes of a group, have the same number of images.

Two differences from the released code. A tie counts as an error here; there the first tied class wins. From the second
trial of a group on, the released code replaces the accuracy of the first step by that of the previous trial's last
step (the full vocabulary); here every trial starts from the accuracy of its first group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rag_clip.metrics.openness import blocked_by, check_groups


@dataclass(frozen=True, slots=True, eq=False)
class SampledOpenness:
    """`acc_c`, `acc_e` (both micro, over images) and `acc_s` (macro, over classes), each a mean over groups.

    `extensibility` and `stability` are float64 [N, trials], by the group that comes first. `error_e` and `error_s` are
    the standard errors of `acc_e` and `acc_s` over the trials, NaN for a single trial.
    """

    acc_c: float
    acc_e: float
    acc_s: float
    error_e: float
    error_s: float
    extensibility: torch.Tensor
    stability: torch.Tensor


def sampled_openness(
    logits: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor, *, trials: int = 3, seed: int = 42
) -> SampledOpenness:
    """Sample openness in N x `trials` orders (paper: 3 trials, 2 across data sets), from one matrix of logits.

    Raises ValueError for trials below 1, a group without an image, and as `openness.openness`.
    """
    count = check_groups(logits, targets, groups)
    own = groups[targets]
    images = torch.bincount(own, minlength=count)
    if trials < 1:
        raise ValueError(f"trials is {trials}; ask for at least one order per group")
    if bool((images == 0).any()):
        raise ValueError(
            f"group {int((images == 0).nonzero()[0])} has no image, and no accuracy when it comes first; "
            "leave its classes out, or use the closed form"
        )
    blocked = torch.cat([rows for _, rows in blocked_by(logits, targets, groups)])
    at_home = blocked.gather(1, own[:, None])[:, 0]
    draw = np.random.RandomState(seed)
    extensibility, stability = torch.empty(2, count, trials, dtype=torch.float64)
    for start in range(count):
        others = np.delete(np.arange(count), start)
        first = own == start
        for trial in range(trials):
            order = torch.from_numpy(np.concatenate([[start], draw.permutation(others)])).to(targets.device)
            taken = _step_taken(blocked, order)
            extensibility[start, trial] = _extensibility(taken, own, order, images)
            stability[start, trial] = _stability(taken[first], targets[first], count)
    acc_c = float((torch.bincount(own[~at_home], minlength=count).double() / images).mean())
    return SampledOpenness(
        acc_c=acc_c,
        acc_e=float(extensibility.mean()),
        acc_s=float(stability.mean()),
        error_e=_error(extensibility),
        error_s=_error(stability),
        extensibility=extensibility,
        stability=stability,
    )


def _step_taken(blocked: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Return the step, from 0, at which the first thief of each image is added; the number of groups without one."""
    return torch.where(blocked, order.argsort().int(), len(order)).amin(1).long()


def _extensibility(taken: torch.Tensor, own: torch.Tensor, order: torch.Tensor, images: torch.Tensor) -> float:
    known = order.argsort()[own]
    ever = taken > known  # [n]; False if the image is lost to its own group or to an earlier one
    gained, lost = (torch.bincount(steps[ever], minlength=len(order) + 1)[:-1] for steps in (known, taken))
    return float(((gained - lost).cumsum(0).double() / images[order].cumsum(0)).mean())


def _stability(taken: torch.Tensor, targets: torch.Tensor, count: int) -> float:
    steps = (taken - 1).clamp(min=0).double() / (count - 1)
    images = torch.bincount(targets)
    return float((torch.bincount(targets, weights=steps)[images > 0] / images[images > 0]).mean())


def _error(sampled: torch.Tensor) -> float:
    """Return the standard error of the mean over groups of the means over trials."""
    groups, trials = sampled.shape
    if trials == 1:
        return float("nan")
    return float((sampled.var(1).sum() / trials).sqrt() / groups)

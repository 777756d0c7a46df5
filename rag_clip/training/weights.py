"""Merging of weights: a fine-tuned model mixed with the model that it started from, so that other tasks keep.

PAINT (Ilharco et al., 2022, arXiv 2208.05592) and WiSE-FT (Wortsman et al., 2022, arXiv 2109.01903), with theta_0 the
weights of the start, theta_j those after fine-tuning on task j, and 0 <= alpha <= 1:

    one task      (1 - alpha) theta_0 + alpha theta_1
    sequential    theta_j <- (1 - alpha_j) theta_{j-1} + alpha_j theta_j      task j fine-tuned from the merge before it
    parallel      theta_0 + sum_j alpha_j (theta_j - theta_0)                 every task fine-tuned from theta_0
    joint         one task, the union of all

PAINT moves the image tower alone, so that text vectors stay as they are; WiSE-FT interpolates the head as well, here
the tower that makes it. Tensors are mixed in float32, or float64 if they are; integer buffers are those of the start.
Running statistics of batch norm are mixed as weights are. Weights that a task does not move stay bit for bit.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from rag_clip.models.folder import weights_file
from rag_clip.models.towers import TwoTowers

State = Mapping[str, torch.Tensor]
IMAGE = ("visual.",)
EVERYTHING = ("",)


def interpolate(start: State, end: State, alpha: float, *, parts: Sequence[str] = IMAGE) -> dict[str, torch.Tensor]:
    """Return (1 - alpha) start + alpha end for the floating tensors of some parts, all others as in `start`.

    start, end: state dicts with the same names, shapes and types.
    alpha: 0 returns the tensors of `start`, 1 those of `end`, bit for bit.
    parts: how names of tensors begin that are mixed: `IMAGE`, the image tower, or `EVERYTHING`.

    Raises ValueError for an alpha outside [0, 1], and for states that do not fit.
    """
    return add_differences(start, [end], [alpha], parts=parts)


def add_differences(
    start: State, ends: Sequence[State], alphas: Sequence[float], *, parts: Sequence[str] = IMAGE
) -> dict[str, torch.Tensor]:
    """Return start + sum_j alpha_j (end_j - start) for the floating tensors of some parts, all others as in `start`.

    The parameters are those of `interpolate`, with one alpha per end; with one end, or one alpha above 0, the result
    is that of `interpolate`. Alphas that sum above 1 go past the mean of the ends, which is allowed. Raises ValueError
    as `interpolate`.
    """
    check_alphas(alphas)
    for end in ends:
        check_fit(start, end)
    counted = [(end, alpha) for end, alpha in zip(ends, alphas, strict=True) if alpha]
    return {
        name: _mix(values, [(end[name], alpha) for end, alpha in counted])
        if values.is_floating_point() and name.startswith(tuple(parts))
        else values.clone()
        for name, values in start.items()
    }


def check_alphas(alphas: Sequence[float]) -> None:
    """Raise ValueError for an alpha outside [0, 1]."""
    for alpha in alphas:
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}; give 0, the start, to 1, the fine-tuned weights")


def check_fit(start: State, end: State) -> None:
    """Raise ValueError, with the first tensor that does not fit, for states of different architectures."""
    for name in sorted({*start, *end}):
        if name not in start or name not in end:
            holder = "the model has" if name in start else "the weights to merge have"
            raise ValueError(f"only {holder} {name!r}; merge models of one architecture")
        one, other = start[name], end[name]
        if one.shape != other.shape or one.dtype != other.dtype:
            raise ValueError(
                f"{name!r} is {_describe(one)} in the model and {_describe(other)} in the weights to merge; merge "
                "models of one architecture and precision"
            )


def moved_parts(start: State, end: State) -> tuple[bool, bool]:
    """Return whether the image tower differs between two states, and whether anything else does."""
    moved = {name for name, values in start.items() if not torch.equal(values, end[name])}
    image = {name for name in moved if name.startswith(IMAGE)}
    return bool(image), bool(moved - image)


def with_weights(encoder: TwoTowers, state: State) -> TwoTowers:
    """Return a frozen encoder of the same architecture with the weights of a state, and its own fingerprint.

    Stored image vectors of `encoder` stay valid for it if the image tower is the same. Raises ValueError for a state
    that does not fit.
    """
    before = encoder.model.state_dict()
    check_fit(before, state)
    model = copy.deepcopy(encoder.model)
    model.load_state_dict(dict(state))
    image, _ = moved_parts(before, state)
    fingerprint = replace(
        encoder.fingerprint,
        weights=hashlib.sha256(weights_file(model)).hexdigest(),
        of_images="" if image else json.dumps(encoder.fingerprint.image_part.identity, sort_keys=True),
        spec="",
    )
    scale = float(model.logit_scale.exp())
    bias = 0.0 if model.logit_bias is None else float(model.logit_bias)
    return replace(encoder, name=f"merged {encoder.name}", model=model, fingerprint=fingerprint, scale=scale, bias=bias)


def _mix(start: torch.Tensor, ends: Sequence[tuple[torch.Tensor, float]]) -> torch.Tensor:
    if not ends:
        return start.clone()
    exact = torch.promote_types(start.dtype, torch.float32)
    origin = start.to(exact)
    if len(ends) == 1:  # lerp is exact at both ends, and where they are equal
        [(end, alpha)] = ends
        return torch.lerp(origin, end.to(exact), alpha).to(start.dtype)
    return torch.stack([alpha * (end.to(exact) - origin) for end, alpha in ends]).sum(0).add(origin).to(start.dtype)


def _describe(values: torch.Tensor) -> str:
    return f"{list(values.shape)} of {str(values.dtype).removeprefix('torch.')}"

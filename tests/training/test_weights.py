"""Merging weights: ends bit for bit, numbers by hand, what stays, and states that do not fit."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from rag_clip.training.weights import EVERYTHING, add_differences, interpolate, moved_parts

State = dict[str, torch.Tensor]


def state(seed: int, dtype: torch.dtype = torch.float32) -> State:
    draw = torch.Generator().manual_seed(seed)
    return {
        "visual.proj": torch.randn(3, 4, generator=draw).to(dtype),
        "visual.norm.running_var": torch.rand(4, generator=draw).to(dtype),
        "visual.norm.num_batches_tracked": torch.tensor(seed),
        "text_projection": torch.randn(4, 4, generator=draw).to(dtype),
        "logit_scale": torch.tensor(float(seed)).to(dtype),
    }


def same(first: State, second: State) -> bool:
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_alpha_0_and_1_return_the_ends_bit_for_bit(dtype: torch.dtype) -> None:
    start, end = state(1, dtype), state(2, dtype)
    assert same(interpolate(start, end, 0.0, parts=EVERYTHING), start)
    number = {"visual.norm.num_batches_tracked": start["visual.norm.num_batches_tracked"]}
    assert same(interpolate(start, end, 1.0, parts=EVERYTHING), {**end, **number})


def test_only_floating_tensors_of_the_image_tower_move() -> None:
    start, end = state(1), state(2)
    merged = interpolate(start, end, 0.3)
    changed = {name for name in start if not torch.equal(merged[name], start[name])}
    assert changed == {"visual.proj", "visual.norm.running_var"}
    merged["visual.proj"].zero_()
    merged["text_projection"].zero_()
    assert same(start, state(1))


def test_weights_are_mixed_as_by_hand() -> None:
    start = {"visual.a": torch.tensor([1.0, -2.0]), "logit_scale": torch.tensor(4.0)}
    first = {"visual.a": torch.tensor([2.0, 2.0]), "logit_scale": torch.tensor(0.0)}
    second = {"visual.a": torch.tensor([1.0, -6.0]), "logit_scale": torch.tensor(4.0)}
    assert interpolate(start, first, 0.25)["visual.a"].tolist() == [1.25, -1.0]
    assert interpolate(start, first, 0.25, parts=EVERYTHING)["logit_scale"].item() == 3.0
    assert add_differences(start, [first, second], [0.5, 0.25])["visual.a"].tolist() == [1.5, -1.0]


def test_merging_agrees_with_float64() -> None:
    start, *ends = (state(seed) for seed in (1, 2, 3))
    alphas = [0.35, 0.8]
    origin, *others = (each["visual.proj"].double().numpy() for each in (start, *ends))
    wanted = origin + sum(alpha * (other - origin) for alpha, other in zip(alphas, others, strict=True))
    np.testing.assert_allclose(add_differences(start, ends, alphas)["visual.proj"].numpy(), wanted, atol=1e-6)
    wanted = (1 - 0.35) * origin + 0.35 * others[0]
    np.testing.assert_allclose(interpolate(start, ends[0], 0.35)["visual.proj"].numpy(), wanted, atol=1e-6)


def test_half_precision_is_mixed_in_float32() -> None:
    start, end = {"visual.a": torch.tensor([1.0]).half()}, {"visual.a": torch.tensor([1.0 + 2**-10]).half()}
    merged = interpolate(start, end, 0.75)["visual.a"]
    assert merged.dtype == torch.float16
    assert merged.item() == 1.0 + 2**-10  # half precision would lose the difference of a quarter of a step


def test_parallel_with_one_task_is_the_merge_of_one() -> None:
    start, end, other = state(1), state(2), state(3)
    for alpha in (0.1, 0.5, 0.9):
        assert same(add_differences(start, [end], [alpha]), interpolate(start, end, alpha))
        assert same(add_differences(start, [end, other], [alpha, 0.0]), interpolate(start, end, alpha))


def test_weights_that_no_task_moves_stay_bit_for_bit() -> None:
    start = state(1)
    for alpha in np.linspace(0, 1, 21):
        assert same(add_differences(start, [start, start], [alpha, 1.0]), start)


def test_what_moved_is_known() -> None:
    start, end = state(1), state(2)
    assert moved_parts(start, start) == (False, False)
    assert moved_parts(start, end) == (True, True)
    assert moved_parts(start, {**start, "visual.proj": end["visual.proj"]}) == (True, False)
    assert moved_parts(start, {**start, "logit_scale": end["logit_scale"]}) == (False, True)


@pytest.mark.parametrize("alpha", [-0.1, 1.01, float("nan")])
def test_an_alpha_outside_0_to_1_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"alpha is {alpha}; give 0, the start, to 1")):
        interpolate(state(1), state(2), alpha)


def test_states_of_other_architectures_are_refused() -> None:
    start, end = state(1), state(2)
    missing = {name: values for name, values in end.items() if name != "text_projection"}
    with pytest.raises(ValueError, match="only the model has 'text_projection'; merge models of one architecture"):
        interpolate(start, missing, 0.5)
    with pytest.raises(ValueError, match="only the weights to merge have 'text_projection'"):
        interpolate(missing, start, 0.5)
    with pytest.raises(ValueError, match=r"'visual.proj' is \[3, 4\] of float32 in the model and \[3, 3\] of float32"):
        interpolate(start, {**end, "visual.proj": torch.zeros(3, 3)}, 0.5)
    with pytest.raises(ValueError, match="of float16 in the weights to merge; merge models of one architecture and"):
        interpolate(start, state(2, torch.float16), 0.5)

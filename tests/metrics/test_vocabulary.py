"""Adversarial vocabulary: every name added and evaluated again, the best set found by trying, and the certificate."""

from __future__ import annotations

import pytest
import torch

from rag_clip.metrics.accuracy import accuracy
from rag_clip.metrics.vocabulary import adversarial_names

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def noise(images: int = 120, candidates: int = 200) -> Inputs:
    draw = torch.Generator().manual_seed(0)
    classes = torch.nn.functional.normalize(torch.randn(6, 16, generator=draw), dim=-1)
    targets = torch.randint(6, (images,), generator=draw)
    features = torch.nn.functional.normalize(classes[targets] + 0.3 * torch.randn(images, 16, generator=draw), dim=-1)
    names = torch.nn.functional.normalize(torch.randn(candidates, 16, generator=draw), dim=-1)
    return features, targets, classes, names


def left_by(inputs: Inputs, names: list[int]) -> float:
    features, targets, classes, candidates = inputs
    return accuracy(features @ torch.cat([classes, candidates[names]]).T, targets)


def test_each_name_takes_what_evaluating_again_with_it_loses() -> None:
    inputs = noise()
    found = adversarial_names(*inputs, count=5)
    left = torch.tensor([left_by(inputs, [name]) for name in range(200)], dtype=torch.float64)
    assert found.accuracy == pytest.approx(accuracy(inputs[0] @ inputs[2].T, inputs[1]))
    assert (found.accuracy - found.takes / 120).tolist() == pytest.approx(left.tolist())
    assert found.single_accuracy.tolist() == pytest.approx(left.sort().values[:5].tolist())
    assert found.worst.tolist() == left.argsort(stable=True)[:5].tolist()


def test_the_set_is_chosen_name_by_name_as_by_trying_all() -> None:
    inputs = noise()
    found = adversarial_names(*inputs, count=4)
    chosen: list[int] = []
    for left in found.set_accuracy.tolist():
        tried = [left_by(inputs, [*chosen, name]) for name in range(200)]
        chosen.append(int(found.chosen[len(chosen)]))
        assert left == pytest.approx(min(tried))
        assert left == pytest.approx(tried[chosen[-1]])
    assert len(set(chosen)) == 4


def test_no_name_takes_what_is_certified() -> None:
    inputs = noise()
    found = adversarial_names(*inputs, count=200)
    assert found.certified == pytest.approx(left_by(inputs, list(range(200))))
    assert float(found.set_accuracy[-1]) == pytest.approx(found.certified)
    assert len(found.chosen) < 200


def test_a_name_takes_no_image_of_the_class_it_speaks_of() -> None:
    inputs = noise()
    features, targets, classes, names = inputs
    speaks = torch.arange(200) % 7 - 1
    found = adversarial_names(*inputs, speaks=speaks, count=200)
    free = adversarial_names(*inputs, count=200)
    scores, own = features @ names.T, (features * classes[targets]).sum(1)
    right = (features @ classes.T).argmax(1) == targets
    taken = right[:, None] & (scores >= own[:, None]) & (speaks != targets[:, None])
    assert found.takes.tolist() == taken.sum(0).tolist()
    assert found.certified == pytest.approx(float((right & ~taken.any(1)).double().mean()))
    assert float(found.set_accuracy[-1]) == pytest.approx(found.certified)
    assert found.certified > free.certified
    with pytest.raises(ValueError, match=r"`speaks` is \(3,\) for 200 candidates"):
        adversarial_names(*inputs, speaks=torch.zeros(3, dtype=torch.int64))


def test_blocks_change_nothing() -> None:
    whole = adversarial_names(*noise())
    blocks = adversarial_names(*noise(), cells=1000)
    assert blocks.takes.tolist() == whole.takes.tolist()
    assert blocks.set_accuracy.tolist() == whole.set_accuracy.tolist()
    assert blocks.certified == whole.certified


def test_a_copy_of_every_class_ties_and_takes_every_image() -> None:
    features, targets, classes, _ = noise()
    found = adversarial_names(features, targets, classes, classes, count=6)
    assert found.certified == 0.0
    assert float(found.set_accuracy[-1]) == 0.0


def test_names_that_take_nothing_are_in_no_set() -> None:
    found = adversarial_names(torch.eye(3), torch.arange(3), torch.eye(3), -torch.ones(70, 3), count=3)
    assert found.chosen.tolist() == []
    assert found.takes.tolist() == [0] * 70
    assert (found.accuracy, found.certified) == (1.0, 1.0)


def test_where_no_image_is_right_there_is_nothing_to_take() -> None:
    found = adversarial_names(torch.eye(2), torch.tensor([1, 0]), torch.eye(2), torch.ones(3, 2), count=2)
    assert (found.accuracy, found.certified, found.takes.tolist()) == (0.0, 0.0, [0, 0, 0])


def test_candidates_that_cannot_be_compared_are_refused() -> None:
    features, targets, classes, names = noise(10, 4)
    with pytest.raises(ValueError, match="widths"):
        adversarial_names(features, targets, classes, names[:, :8])
    with pytest.raises(ValueError, match="the candidate vector of row 2 is not finite"):
        adversarial_names(features, targets, classes, names.index_fill(0, torch.tensor(2), float("nan")))
    with pytest.raises(ValueError, match="5 names wanted of 0 candidates"):
        adversarial_names(features, targets, classes, names[:0], count=5)

"""Openness in closed form: against every order of the groups, written out, and at its limits."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from rag_clip.metrics.accuracy import accuracy, mean_per_class
from rag_clip.metrics.openness import macro_weights, number_groups, openness

GROUPS = torch.tensor([0, 1, 2, 0, 1, 2, 3, 3])


def noise(groups: torch.Tensor, images: list[int], *, rounded: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    targets = torch.repeat_interleave(torch.arange(len(groups)), torch.tensor(images))
    logits = torch.randn(len(targets), len(groups), generator=draw)
    logits += 1.5 * torch.nn.functional.one_hot(targets, len(groups))
    return (logits * 2).round() if rounded else logits, targets


def by_all_orders(logits: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor) -> tuple[float, float, float]:
    """Write out the definitions over every order, class by class, from masked logits."""
    scores, labels, of = logits.double().numpy(), targets.numpy(), groups.numpy()
    count = of.max() + 1

    def group_accuracy(group: int, known: tuple[int, ...]) -> float:
        columns = np.isin(of, known)
        recalls = []
        for label in np.flatnonzero(of == group):
            rows = scores[labels == label]
            others = np.delete(rows, label, axis=1)[:, np.delete(columns, label)]
            recalls.append(np.mean((rows[:, [label]] > others).all(1)))
        return float(np.mean(recalls))

    closed = np.mean([group_accuracy(group, (group,)) for group in range(count)])
    extended, stable = [], []
    for order in permutations(range(count)):
        steps = [order[: step + 1] for step in range(count)]
        extended.append(np.mean([np.mean([group_accuracy(group, known) for group in known]) for known in steps]))
        stable.append(np.mean([group_accuracy(order[0], known) for known in steps[1:]]))
    return float(closed), float(np.mean(extended)), float(np.mean(stable))


@pytest.mark.parametrize("rounded", [False, True], ids=["no ties", "ties"])
@pytest.mark.parametrize("images", [[3] * 8, [1, 2, 3, 4, 5, 6, 7, 8]], ids=["balanced", "unbalanced"])
def test_the_closed_form_is_the_mean_over_every_order(images: list[int], rounded: bool) -> None:
    logits, targets = noise(GROUPS, images, rounded=rounded)
    found = openness(logits, targets, GROUPS)
    assert (found.acc_c, found.acc_e, found.acc_s) == pytest.approx(by_all_orders(logits, targets, GROUPS), abs=1e-12)


def test_groups_of_unequal_size_count_alike() -> None:
    groups = torch.tensor([2, 0, 0, 0, 1])
    logits, targets = noise(groups, [4, 1, 2, 3, 2])
    found = openness(logits, targets, groups)
    assert (found.acc_c, found.acc_e, found.acc_s) == pytest.approx(by_all_orders(logits, targets, groups), abs=1e-12)


def test_an_image_taken_by_one_of_two_other_groups_counts_half() -> None:
    logits = torch.tensor([[5.0, 1, 6, 0], [0, 5, 0, 0], [0, 0, 5, 0], [0, 0, 0, 5]])
    found = openness(logits, torch.arange(4), torch.tensor([0, 0, 1, 2]))
    assert found.closed.tolist() == [True] * 4
    assert found.thieves.tolist() == [1, 0, 0, 0]
    assert found.weights.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 3, 1 / 3])
    assert (found.acc_c, found.acc_e, found.acc_s) == pytest.approx((1.0, 11 / 12, 5 / 6 + 1 / 24))
    assert found.by_group.flatten().tolist() == pytest.approx([1, 3 / 4, 5 / 8, 1, 1, 1, 1, 1, 1])


def test_the_three_accuracies_hang_together() -> None:
    logits, targets = noise(GROUPS, [1, 2, 3, 4, 5, 6, 7, 8])
    found = openness(logits, targets, GROUPS)
    assert found.acc_s == pytest.approx((4 * found.acc_e - found.acc_c) / 3)
    assert found.acc_s <= found.acc_e <= found.acc_c


def test_with_balanced_images_the_full_vocabulary_bounds_from_below() -> None:
    logits, targets = noise(GROUPS, [3] * 8)
    found = openness(logits, targets, GROUPS)
    assert accuracy(logits, targets) == pytest.approx(mean_per_class(logits, targets))
    assert float((found.closed & (found.thieves == 0)).double().mean()) == pytest.approx(accuracy(logits, targets))
    assert accuracy(logits, targets) <= found.acc_s


def test_a_tie_counts_for_the_thief() -> None:
    found = openness(torch.tensor([[1.0, 0, 1], [0, 1, 0], [0, 0, 1]]), torch.arange(3), torch.tensor([0, 0, 1]))
    assert found.thieves.tolist() == [1, 0, 0]


def test_groups_without_images_distract_and_are_in_no_mean() -> None:
    logits, targets = torch.tensor([[2.0, 0, 3, 0], [0, 2, 0, 0]]), torch.tensor([0, 1])
    found = openness(logits, targets, torch.tensor([0, 1, 2, 2]))
    assert found.weights.tolist() == [0.5, 0.5]
    assert (found.acc_c, found.acc_e) == (1.0, 0.75)
    assert found.by_group[:2].tolist() == [[1.0, 0.5, 0.25], [1.0, 1.0, 1.0]]
    assert found.by_group[2].isnan().all()


def test_the_order_of_images_and_classes_makes_no_difference() -> None:
    logits, targets = noise(GROUPS, [1, 2, 3, 4, 5, 6, 7, 8])
    draw = torch.Generator().manual_seed(2)
    rows, columns = torch.randperm(len(targets), generator=draw), torch.randperm(8, generator=draw)
    places = columns.argsort()
    first = openness(logits, targets, GROUPS)
    second = openness(logits[rows][:, columns], places[targets[rows]], GROUPS[columns])
    assert (second.acc_c, second.acc_e, second.acc_s) == pytest.approx((first.acc_c, first.acc_e, first.acc_s))


def test_macro_weights_sum_to_one_and_share_by_group_then_class() -> None:
    weights = macro_weights(torch.tensor([0, 0, 1, 3]), torch.tensor([0, 0, 1, 1]))
    assert weights.tolist() == [0.125, 0.125, 0.25, 0.5]


def test_groups_are_numbered_as_they_appear() -> None:
    names, numbers = number_groups(["sea", "air", "sea", "land"])
    assert (names, numbers.tolist()) == (("sea", "air", "land"), [0, 1, 0, 2])
    with pytest.raises(ValueError, match="class 1 has no group"):
        number_groups(["sea", " "])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (torch.tensor([0, 1]), r"groups have shape \(2,\) for 3 classes"),
        (torch.tensor([0, 0, 0]), "all classes are in one group"),
        (torch.tensor([0, 2, 2]), "group 1 holds no class"),
        (torch.tensor([0, -1, 1]), "groups are torch.int64 from -1"),
        (torch.tensor([0.0, 1, 1]), "groups are torch.float32"),
    ],
)
def test_groups_that_do_not_cover_the_classes_are_refused(groups: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        openness(torch.eye(3), torch.arange(3), groups)


def test_more_images_than_one_block_are_all_counted() -> None:
    targets = torch.arange(5000) % 3
    logits = torch.nn.functional.one_hot(targets, 3).float()
    logits[4999, 0] = 9
    assert openness(logits, targets, torch.tensor([0, 1, 2])).thieves.nonzero().tolist() == [[4999]]

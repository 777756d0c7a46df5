"""Curves against the size of the vocabulary: every subset written out, and their means as openness; thieves by hand."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from rag_clip.metrics.accuracy import mean_per_class
from rag_clip.metrics.curves import Taken, class_curve, find_thieves, group_curve, most_taken, openness_intervals
from rag_clip.metrics.openness import openness

GROUPS = torch.tensor([0, 1, 2, 0, 1, 2, 3, 3])


def noise(*, images: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    targets = torch.repeat_interleave(torch.arange(8), torch.tensor(images))
    logits = torch.randn(len(targets), 8, generator=draw) + 1.5 * torch.nn.functional.one_hot(targets, 8)
    return logits, targets


def right_with(logits: torch.Tensor, target: int, known: list[int]) -> bool:
    return all(float(logits[target]) > float(logits[other]) for other in known if other != target)


def test_the_curve_by_classes_is_the_mean_over_every_vocabulary() -> None:
    logits, targets = noise(images=[2] * 8)
    expected = []
    for size in range(8):
        shares = [
            right_with(row, label, list(others))
            for row, label in zip(logits, targets.tolist(), strict=True)
            for others in combinations([other for other in range(8) if other != label], size)
        ]
        expected.append(sum(shares) / len(shares))
    found = class_curve(logits, targets)
    assert found.sizes.tolist() == list(range(1, 9))
    assert found.accuracy.tolist() == pytest.approx(expected)


def test_the_curve_by_classes_runs_from_one_to_the_mean_per_class() -> None:
    logits, targets = noise(images=[1, 2, 3, 4, 5, 6, 7, 0])
    curve = class_curve(logits, targets).accuracy
    assert curve[0].item() == pytest.approx(1.0)
    assert curve[-1].item() == pytest.approx(mean_per_class(logits, targets))
    assert bool((curve.diff() <= 1e-12).all())


def test_openness_is_the_mean_of_the_curve_by_groups() -> None:
    logits, targets = noise(images=[1, 2, 3, 4, 5, 6, 7, 8])
    curve, found = group_curve(logits, targets, GROUPS).accuracy, openness(logits, targets, GROUPS)
    assert float(curve[0]) == pytest.approx(found.acc_c)
    assert float(curve.mean()) == pytest.approx(found.acc_e)
    assert float(curve[1:].mean()) == pytest.approx(found.acc_s)


def test_the_curve_of_a_thousand_classes_stays_exact() -> None:
    draw = torch.Generator().manual_seed(0)
    targets = torch.arange(1000)
    logits = torch.randn(1000, 1000, generator=draw) + 3 * torch.eye(1000)
    curve = class_curve(logits, targets).accuracy
    others = logits.masked_fill(torch.eye(1000, dtype=torch.bool), -9)
    thieves = (others >= logits.diagonal()[:, None]).sum(1).double()
    assert float(curve[1]) == pytest.approx(float((1 - thieves / 999).mean()), abs=1e-12)
    assert float(curve[-1]) == pytest.approx(float((thieves == 0).double().mean()), abs=1e-12)


def test_openness_has_intervals_of_the_same_numbers_which_cover_the_truth() -> None:
    draw, covered = torch.Generator().manual_seed(3), torch.zeros(3)

    def world(images: int) -> tuple[torch.Tensor, torch.Tensor]:
        targets = torch.arange(8).repeat_interleave(images)
        return torch.randn(8 * images, 8, generator=draw) + 1.5 * torch.nn.functional.one_hot(targets, 8), targets

    logits, targets = world(20_000)
    truth = openness(logits, targets, GROUPS)
    for _ in range(40):
        logits, targets = world(6)
        exact = openness(logits, targets, GROUPS)
        found = openness_intervals(exact, targets, GROUPS, draws=80)
        three = (found.acc_c, found.acc_e, found.acc_s)
        assert [one.value for one in three] == pytest.approx([exact.acc_c, exact.acc_e, exact.acc_s])
        assert [one.value for one in found.curve] == pytest.approx(
            group_curve(logits, targets, GROUPS).accuracy.tolist()
        )
        truths = (truth.acc_c, truth.acc_e, truth.acc_s)
        covered += torch.tensor([one.low <= value <= one.high for one, value in zip(three, truths, strict=True)])
    assert (covered >= 0.88 * 40).all()


def test_images_are_drawn_within_their_class() -> None:
    logits, targets = noise(images=[1] * 8)
    found = openness_intervals(openness(logits, targets, GROUPS), targets, GROUPS, draws=20)
    assert all(one.low == pytest.approx(one.value) == one.high for one in (found.acc_c, found.acc_e, *found.curve))


LOST, LABELS = torch.tensor([[2.0, 1, 3, 0], [2, 2, 3, 4], [0, 5, 0, 0], [0, 0, 9, 1]]), torch.tensor([0, 0, 1, 2])


def test_thieves_are_counted_by_group() -> None:
    found = find_thieves(LOST, LABELS, torch.tensor([0, 0, 1, 2]))
    assert found.mean[:3].tolist() == [1.5, 0.0, 0.0]
    assert found.groups[:3].tolist() == [[0.5, 1.0, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert found.mean[3].isnan()
    assert found.groups[3].isnan().all()


def test_pairs_of_label_and_thief_are_listed_by_share_then_class() -> None:
    pairs = (Taken(0, 2, 2, 1.0), Taken(0, 1, 1, 0.5), Taken(0, 3, 1, 0.5))
    assert most_taken(LOST, LABELS) == pairs
    assert most_taken(LOST, LABELS, most=2) == pairs[:2]


def test_pairs_are_those_of_every_pair_counted() -> None:
    logits, targets = noise(images=[1, 2, 3, 4, 5, 6, 7, 0])
    shares = {
        (label, thief): float((logits[targets == label, thief] >= logits[targets == label, label]).double().mean())
        for label in range(7)
        for thief in range(8)
        if thief != label
    }
    expected = sorted(((pair, share) for pair, share in shares.items() if share), key=lambda pair: -pair[1])
    found = most_taken(logits.flip(0), targets.flip(0), most=10)
    assert [((one.label, one.thief), one.share) for one in found] == expected[:10]
    assert [one.images for one in found] == [round(one.share * (one.label + 1)) for one in found]

import math

import pytest
import torch
from torch.nn.functional import normalize

from rag_clip.prompts.known import known_names, nearer_names


def share(nearer: list[int], captions: list[int]) -> float:
    return known_names(torch.tensor(nearer), torch.tensor(captions)).share


def test_names_nearer_to_a_caption_mean_than_its_own_are_counted():
    angles = torch.deg2rad(torch.tensor([0.0, 60.0, 90.0], dtype=torch.float64))
    names = torch.stack([angles.cos(), angles.sin()], 1)
    # The captions of class 0 lie at 60 and 90 degrees, their mean at 75: both other names are nearer. The caption of
    # class 2 is its own name's, and class 1 has none.
    means = torch.stack([names[1] + names[2], torch.zeros(2, dtype=torch.float64), names[2]])
    assert nearer_names(names, means).tolist() == [2, 0, 0]


def test_the_count_agrees_with_one_class_at_a_time():
    draw = torch.Generator().manual_seed(0)
    names, means = (normalize(torch.randn(9, 6, generator=draw), dim=1) for _ in range(2))
    expected = [sum(float(one @ means[row]) > float(names[row] @ means[row]) for one in names) for row in range(9)]
    assert nearer_names(names, means).tolist() == expected


def odds(nearer: int, captions: int, count: int) -> tuple[float, float]:
    """Return the likelihoods of a rank if the name is known, and if it is not."""
    tau = max(0.7, 0.02 * count) * (1 + 4 / captions)
    whole = sum(math.exp(-b / tau) for b in range(count))
    q = 0.95 * captions / (captions + 2)
    return q * math.exp(-nearer / tau) / whole + (1 - q) / count, 1 / count


@pytest.mark.parametrize(
    ("nearer", "captions"),
    [
        ([0, 0, 2, 2, 1, 2], [60] * 6),
        ([0, 0, 0, 1, 0, 4, 7, 2, 0, 9], [200, 20, 5, 1, 3, 200, 40, 9, 2, 30]),
        ([0] * 60 + list(range(0, 60)), [30] * 120),
    ],
)
def test_the_share_is_the_most_likely_one(nearer: list[int], captions: list[int]):
    pairs = [odds(b, n, len(nearer)) for b, n in zip(nearer, captions, strict=True)]

    def likelihood(known: float) -> float:
        return sum(math.log(known * p + (1 - known) * u) for p, u in pairs)

    best = max((step / 1000 for step in range(1001)), key=likelihood)
    assert 0.1 < best < 0.9
    assert share(nearer, captions) == pytest.approx(best, abs=2e-3)


def test_all_names_known_and_none():
    assert share([0] * 20, [50] * 20) == pytest.approx(1)
    assert share(list(range(20)), [50] * 20) < 0.2
    assert share([19] * 20, [50] * 20) == pytest.approx(0, abs=1e-6)


def test_nothing_is_learned_from_a_single_class_or_without_captions():
    assert share([0], [100]) == pytest.approx(0.5)
    assert share([0, 0], [0, 0]) == 0.5
    assert share([], []) == 0.5


def test_classes_without_captions_do_not_count():
    some = share([0, 0, 5, 0, 3, 0], [9, 9, 9, 0, 0, 0])
    assert some == share([0, 0, 5, 5, 5, 5], [9, 9, 9, 0, 0, 0])


def test_few_captions_say_less():
    # With q near 0 both likelihoods are alike, so that a second-nearest name speaks less against the others.
    assert share([0, 1, 1], [100, 1, 1]) > share([0, 1, 1], [100, 100, 100])


def known(nearer: list[int], captions: list[int]) -> list[bool]:
    found: list[bool] = known_names(torch.tensor(nearer), torch.tensor(captions)).known.tolist()
    return found


def test_a_set_that_is_known_as_a_whole_keeps_every_name():
    nearer = [0] * 18 + [15, 19]
    assert share(nearer, [50] * 20) > 0.8
    assert all(known(nearer, [50] * 20))


def test_a_set_that_is_unknown_as_a_whole_keeps_no_name():
    nearer = [0, 1, *range(2, 20)]
    assert share(nearer, [50] * 19 + [0]) <= 0.3
    assert known(nearer, [50] * 19 + [0]) == [False] * 20


def test_names_of_a_mixed_set_are_told_apart_one_by_one():
    nearer, captions = [0] * 10 + [12] * 10, [50] * 20
    assert 0.3 < share(nearer, captions) < 0.8
    assert known(nearer, captions) == [True] * 10 + [False] * 10
    # A single caption says too little against a name.
    assert known(nearer, [50] * 19 + [1])[-1]
    assert known(nearer, [50] * 19 + [0])[-1]


def test_captions_that_tell_all_classes_apart_beat_the_names_of_a_mixed_set_alone():
    mixed, captions = torch.tensor([0] * 10 + [12] * 10), torch.full((20,), 50)
    assert not known_names(mixed, captions, sure=0.8).known.any()
    assert known_names(mixed, captions, sure=0.7).known.any()
    assert known_names(torch.zeros(20, dtype=torch.long), captions, sure=1.0).known.all()


def test_names_are_meaningless_only_where_captions_are_enough_to_say_so():
    few, many = (known_names(torch.full((rows,), rows - 1), torch.full((rows,), 1)) for rows in (4, 40))
    assert few.share < 0.15
    assert many.share < 0.15
    assert not few.meaningless
    assert many.meaningless
    assert many.against == pytest.approx(40 * -math.log(odds(39, 1, 40)[0] * 40))

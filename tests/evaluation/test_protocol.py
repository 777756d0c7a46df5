import pytest
import torch
from torch.nn.functional import one_hot

from rag_clip.classifiers.evidence import one_label
from rag_clip.data import Features, LabelSet, SeveralLabels, Targets
from rag_clip.evaluation.protocol import (
    COOP_SHOTS,
    ELEVATER_SHOTS,
    SEEDS,
    draw_from_whole,
    draw_shots,
    few_shot,
    inner_split,
    parameter_efficiency,
)
from rag_clip.evaluation.splits import Train
from rag_clip.support.shots import choose_shots

LABELS = LabelSet(("red", "blue", "green"))
TARGETS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 0, 0, 0])
IDS = tuple("abcdefghijk")
TRAIN = Train(Features(torch.eye(11), ids=IDS), LABELS, TARGETS)


def test_shots_are_those_of_the_support_verb_drawn_by_class_name():
    names = [LABELS.names[target] for target in TARGETS.tolist()]
    rows = choose_shots(names, k=2, seed=1, validation="none").support
    drawn = draw_shots(TRAIN, shots=2, seed=1)
    assert drawn.features.ids == tuple(IDS[row] for row in rows)
    assert drawn.targets.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_protocol_draws_every_number_of_shots_with_every_seed():
    draws = list(few_shot(TRAIN, shots=(1, 2)))
    assert [(draw.shots, draw.seed, len(draw.train)) for draw in draws] == [
        (1, 0, 3),
        (1, 1, 3),
        (1, 2, 3),
        (2, 0, 6),
        (2, 1, 6),
        (2, 2, 6),
    ]
    one, two = (next(draw for draw in draws if (draw.shots, draw.seed) == (count, 0)) for count in (1, 2))
    assert set(one.train.features.ids) < set(two.train.features.ids)
    assert (ELEVATER_SHOTS, COOP_SHOTS, SEEDS) == ((5, 20, 50), (1, 2, 4, 8, 16), (0, 1, 2))


def test_the_first_fifth_of_each_class_is_held_out():
    train, held = inner_split(TRAIN)
    assert held.features.ids == ("a", "b", "c", "d")
    assert held.targets.tolist() == [0, 1, 2, 0]
    assert train.features.ids == tuple("efghijk")
    with pytest.raises(ValueError, match="no class has two images, so none can be held out"):
        inner_split(TRAIN.take(torch.tensor([0, 1, 2])))


def test_shots_of_images_without_a_split_leave_the_others_to_test():
    train, test = draw_from_whole(TRAIN.features, LABELS, TARGETS, shots=1, seed=0)
    assert one_label("test set", train.targets).bincount().tolist() == [1, 1, 1]
    assert one_label("test set", test.truth).bincount().tolist() == [5, 2, 1]
    assert sorted(train.features.ids + test.features.ids) == list(IDS)
    with pytest.raises(ValueError, match="6 shots per class would use all 11 images"):
        draw_from_whole(TRAIN.features, LABELS, TARGETS, shots=6, seed=0)


@pytest.mark.parametrize(
    ("score", "parameters", "expected"),
    [(50.0, 0, 50.0), (68.92, 79_699, 68.90), (66.32, 29_523, 66.31), (65.08, 1_240_000, 64.73)],
)
def test_parameter_efficiency_gives_the_numbers_published_with_it(score: float, parameters: int, expected: float):
    assert parameter_efficiency(score, parameters) == pytest.approx(expected, abs=0.006)


def test_full_fine_tuning_loses_a_quarter_of_its_score():
    assert parameter_efficiency(65.49, 87_900_000) == pytest.approx(49.80, abs=0.01)
    with pytest.raises(ValueError, match="the number of trained parameters is -1"):
        parameter_efficiency(65.0, -1)


def counts(targets: Targets) -> list[int]:
    """Return how many images each class has."""
    assert isinstance(targets, SeveralLabels)
    return [sum(column) for column in zip(*targets.tolist(), strict=True)]


def test_images_of_several_labels_are_drawn_and_held_out_for_all_of_their_classes():
    red, blue, green = (one_hot(torch.tensor([0, 1, 2])).bool()[row] for row in range(3))
    marks = torch.stack(
        [red | blue, red | blue, red, red, blue | green, blue | green, blue, green, red, red & blue, red]
    )
    targets = SeveralLabels(marks)
    train = Train(TRAIN.features, LABELS, targets)
    drawn = draw_shots(train, shots=3, seed=0)
    assert counts(drawn.targets) == [3, 3, 3]
    assert set(draw_shots(train, shots=1, seed=0).features.ids) < set(drawn.features.ids)
    kept, held = inner_split(train)
    assert (held.features.ids, counts(held.targets)) == (("a", "b", "e"), [2, 3, 1])
    assert counts(kept.targets) == [4, 2, 2]
    left, test = draw_from_whole(TRAIN.features, LABELS, targets, shots=1, seed=0)
    assert sorted(left.features.ids + test.features.ids) == list(IDS)

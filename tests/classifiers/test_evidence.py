import math
from collections.abc import Sequence

import pytest
import torch

from rag_clip.classifiers.evidence import among, centre, cross_entropy, gather_evidence, hold_out
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support, Validation

LABELS = LabelSet(("cat", "dog", "owl"))
TEXT = ZeroShot(LABELS, torch.eye(3), 10.0)
ROWS = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [0, 1, 0], [0, 0.6, 0.8]])


def make_support(
    targets: Sequence[Sequence[float]], relevance: list[float], origin: tuple[str, ...], labels: LabelSet = LABELS
) -> Support:
    return Support(labels, ROWS, torch.tensor(targets), torch.tensor(relevance), origin, ("a", "b", "c", "d"))


def test_masses_and_means_count_relevance_times_share():
    targets: list[list[float]] = [[1.0, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [1, 0, 0]]
    evidence = gather_evidence(TEXT, make_support(targets, [1.0, 0.5, 1, 0], ("shot",) * 4))
    assert evidence.mass.tolist() == [1.25, 1.25, 0]
    assert torch.allclose(evidence.means.float(), torch.tensor([[0.92, 0.16, 0], [0.12, 0.96, 0], [0, 0, 0]]))
    assert evidence.present.tolist() == [True, True, False]
    assert torch.allclose(evidence.logits.float(), 10 * ROWS[:3])


def test_only_shots_that_leave_their_class_another_image_judge():
    targets: list[list[float]] = [[1.0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0]]
    evidence = gather_evidence(TEXT, make_support(targets, [1.0] * 4, ("shot", "retrieved", "shot", "shot")))
    assert evidence.judges.tolist() == [True, False, True, False]


def test_centring_takes_the_mean_of_the_present_off_and_gives_the_others_nothing():
    scores = centre(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([True, True, False]))
    assert scores.tolist() == [[-1.0, 1.0, 0.0]]


def test_images_decide_among_their_classes_and_the_text_how_likely_those_are():
    text = torch.tensor([[0.5, 0.3, 0.2]]).log()
    decided = among(torch.tensor([[7.0, 7.0 + math.log(3), 99.0]]), text, torch.tensor([True, True, False]))
    assert torch.allclose(decided.exp(), torch.tensor([[0.2, 0.6, 0.2]]))
    assert torch.equal(among(text + 5, text, torch.zeros(3).bool()), text)


def test_texts_moved_by_the_gap_count_for_images_that_do_not_judge():
    targets: list[list[float]] = [[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]]
    evidence = gather_evidence(TEXT, make_support(targets, [1.0] * 4, ("shot",) * 4), text_samples=2)
    # means [.8 .4 0] and [0 .8 .4], texts [1 0 0] and [0 1 0]: the gap is [-.1 .1 .2]
    assert torch.allclose(evidence.images[4:].float(), torch.tensor([[0.9, 0.1, 0.2], [-0.1, 1.1, 0.2]]))
    assert evidence.shares[4:].tolist() == [[2, 0, 0], [0, 2, 0]]
    assert evidence.mass.tolist() == [4, 4, 0]
    assert evidence.judges.tolist() == [True] * 4 + [False] * 2


def test_cross_entropy_does_not_depend_on_confidence():
    logits = torch.tensor([[20.0, 1], [0, 5], [2, 0]]).double()
    targets = torch.tensor([[1.0, 0], [0, 1], [0, 1]]).double()
    assert cross_entropy(logits, targets) == pytest.approx(cross_entropy(logits / 10, targets))
    assert cross_entropy(logits, targets) < cross_entropy(logits, 1 - targets)


def test_validation_images_of_classes_without_support_are_not_judged_by():
    validation = Validation(Features(ROWS), LABELS, torch.tensor([0, 2, 1, 2]))
    held = hold_out(TEXT, validation, torch.tensor([True, True, False]))
    assert torch.equal(held.images, ROWS[[0, 2]].double())
    assert held.targets.tolist() == [[1, 0, 0], [0, 1, 0]]


def test_sets_that_do_not_fit_the_prompts_are_refused_with_what_was_found():
    targets: list[list[float]] = [[1.0, 0, 0]] * 4
    other = make_support(targets, [1.0] * 4, ("shot",) * 4, LabelSet(("dog", "cat", "owl")))
    with pytest.raises(ValueError, match="the support set has 3 classes other than the 3 of the prompts"):
        gather_evidence(TEXT, other)
    wide = ZeroShot(LABELS, torch.eye(3, 5), 10.0)
    with pytest.raises(ValueError, match="the support set is 3 wide, the prompts 5"):
        gather_evidence(wide, make_support(targets, [1.0] * 4, ("shot",) * 4))
    with pytest.raises(ValueError, match="the validation set is 3 wide, the prompts 5"):
        hold_out(wide, Validation(Features(ROWS), LABELS, torch.tensor([0, 1, 2, 0])), torch.ones(3).bool())

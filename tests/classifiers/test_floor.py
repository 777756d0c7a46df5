from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rag_clip.classifiers.floor import choose_strength, floored, strength_by_found
from rag_clip.classifiers.heads import build_head
from rag_clip.classifiers.ridge import RidgeSettings
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support, Validation
from rag_clip.protocols import Classifier

CLASSES, WIDTH, SHOTS = 6, 32, 6
LABELS = LabelSet(tuple(f"class {number}" for number in range(CLASSES)))
DRAW = torch.Generator().manual_seed(3)


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)


CENTRES = unit(torch.randn(CLASSES, WIDTH, generator=DRAW))
TEXT = ZeroShot(LABELS, unit(CENTRES + 0.35 * torch.randn(CLASSES, WIDTH, generator=DRAW)), 100.0)


def images(count: int, *, noise: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    targets = torch.arange(CLASSES).repeat(count)
    return unit(CENTRES[targets] + noise * torch.randn(len(targets), WIDTH, generator=draw)), targets


def support(*, count: int = SHOTS, origin: str = "shot", shuffled: bool = False) -> Support:
    features, targets = images(count, noise=0.25, seed=5)
    if shuffled:
        targets = targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(1))]
    rows = len(targets)
    names = tuple(f"{row:03d}" for row in range(rows))
    return Support(LABELS, features, torch.eye(CLASSES)[targets], torch.ones(rows), (origin,) * rows, names)


def right(classifier: Classifier) -> float:
    features, targets = images(50, noise=0.25, seed=9)
    return float((classifier(Features(features)).argmax(1) == targets).float().mean())


def ridge_head(support: Support, validation: Validation | None) -> Classifier:
    return RidgeSettings().build(TEXT, support, validation=validation)


def test_good_support_is_used_whole_and_the_logits_are_the_heads():
    found, features = floored(TEXT, ridge_head, support()), Features(images(2, noise=0.3, seed=2)[0])
    assert (found.strength, found.by, found.images) == (1.0, "judged images", CLASSES * SHOTS)
    assert torch.equal(found(features), RidgeSettings().build(TEXT, support())(features))
    assert right(found) > right(TEXT)


def test_support_with_wrong_labels_leaves_the_texts_alone():
    found, features = floored(TEXT, ridge_head, support(shuffled=True)), Features(images(2, noise=0.3, seed=2)[0])
    assert found.strength == 0
    assert torch.equal(found(features), TEXT(features))


def test_a_blend_lies_between_the_texts_and_the_head():
    found = replace(floored(TEXT, ridge_head, support()), strength=0.25)
    features = Features(images(2, noise=0.3, seed=2)[0])
    expected = 0.75 * TEXT(features) + 0.25 * RidgeSettings().build(TEXT, support())(features)
    assert torch.allclose(found(features), expected, atol=1e-4)


def test_the_order_of_support_rows_changes_nothing():
    given = support()
    order = torch.randperm(len(given), generator=torch.Generator().manual_seed(4))
    moved = replace(
        given,
        features=given.features[order],
        targets=given.targets[order],
        references=tuple(given.references[row] for row in order.tolist()),
    )
    assert floored(TEXT, ridge_head, moved).strength == floored(TEXT, ridge_head, given).strength


@pytest.mark.parametrize(("caution", "strength"), [(None, 1.0), (2.0, 2.0 * 0.5 / (CLASSES + 1))])
def test_one_shot_is_trusted_by_what_the_texts_get_wrong(caution, strength):
    clean = replace(support(count=1), features=TEXT.weights)  # the texts get every image right
    found = floored(TEXT, ridge_head, clean, caution=caution)
    assert (found.strength, found.by, found.images) == (pytest.approx(strength), "text errors", 0)


def test_few_judges_overrule_the_caution_of_a_head_only_by_clear_proof():
    few, more = support(count=2), support(count=3)
    wrong = float((TEXT(Features(few.features)).argmax(1) != few.shares.argmax(1)).sum())
    bound = 0.1 * (wrong + 0.5) / (len(few) + 1)
    assert floored(TEXT, ridge_head, few, caution=0.1).strength == pytest.approx(bound)
    assert floored(TEXT, ridge_head, more, caution=0.1).strength == 1.0


def test_where_few_images_prove_nothing_as_much_is_used_as_costs_none_of_them():
    features, targets = images(1, noise=0.0, seed=1)
    judges = Validation(Features(features), LABELS, targets)
    text = replace(TEXT, weights=CENTRES)
    far = replace(
        text, weights=unit(CENTRES.roll(1, 0) + 0.5 * CENTRES)
    )  # wrong alone, right in a blend with the texts
    found = floored(text, lambda support, validation: far, support(count=1), validation=judges)
    kept, next_one = (replace(found, strength=each) for each in (found.strength, found.strength + 0.25))
    right = [int((each(Features(features)).argmax(1) == targets).sum()) for each in (text, kept, next_one)]
    assert 0 < found.strength < 1
    assert right[0] == right[1] > right[2]


def test_found_images_judge_only_where_no_labelled_image_can():
    found = support(origin="retrieved")
    features, targets = images(2, noise=0.25, seed=7)
    judges = Validation(Features(features), LABELS, targets)
    alone, held = floored(TEXT, ridge_head, found), floored(TEXT, ridge_head, found, validation=judges)
    assert (alone.by, alone.images) == ("found images", CLASSES * SHOTS)
    assert (held.by, held.images) == ("judged images", 2 * CLASSES)


def test_found_images_with_wrong_labels_leave_the_texts_alone():
    assert floored(TEXT, ridge_head, support(origin="retrieved", shuffled=True)).strength == 0


def test_one_found_image_of_a_class_proves_nothing():
    found = floored(TEXT, ridge_head, support(count=1, origin="retrieved"))
    assert (found.strength, found.by, found.images) == (0.0, "found images", 0)


def test_a_head_that_weighs_found_images_itself_is_used_whole():
    found = support(origin="retrieved", shuffled=True)
    assert floored(TEXT, ridge_head, found, weighs_found=True).strength == 1
    features = Features(images(2, noise=0.3, seed=2)[0])
    published, kept = (build_head("priming", found, encoder=None, floor=floor)(TEXT) for floor in (False, True))
    assert torch.equal(kept(features), published(features))


def test_the_strength_by_found_images_is_three_quarters_less_the_errors_of_the_head_over_those_the_texts_expect():
    text = torch.tensor([[0.8, 0.2]]).log().repeat(10, 1)  # expects to err on every fifth image
    targets = torch.zeros(10, dtype=torch.int64)
    head = text + torch.tensor([[1.0, 0.0]] * 9 + [[0.0, 1.0]])  # one of ten images speaks for the other class
    assert strength_by_found(text, head, targets) == pytest.approx(0.75 * (1 - 0.1 / 0.2))
    assert strength_by_found(text, 2 * text - head, targets) == 0


@pytest.mark.parametrize(("more", "strength"), [(3, 0.0), (4, 1.0)])  # 1.8 and 2.2 standard errors of 20 images
def test_found_images_prove_a_head_by_two_standard_errors_alone(more, strength):
    targets = torch.zeros(20, dtype=torch.int64)
    text = torch.tensor([[0.0, 8.0]] * more + [[8.0, 0.0]] * (20 - more))  # expects no error
    head = text + torch.tensor([[9.0, 0.0]] * more + [[0.0, 0.1]] * (20 - more))
    assert strength_by_found(text, head, targets) == strength


def test_the_texts_win_where_the_evidence_is_within_its_own_uncertainty():
    targets = torch.tensor([0, 0, 0, 0])
    text = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [-1.0, 0.0]])
    unsure = torch.tensor([[2.0, 0.0], [2.0, 0.0], [-2.0, 0.0], [1.0, 0.0]])
    better = torch.tensor([[3.0, 0.0], [3.0, 0.0], [3.0, 0.0], [2.0, 0.0]])
    assert choose_strength(text, unsure, targets) < 1
    assert choose_strength(text, -2.5 * text, targets) == 0
    assert choose_strength(text, better, targets) == 1


def test_without_the_floor_a_head_is_what_its_builder_makes():
    features = Features(images(2, noise=0.3, seed=2)[0])
    bad = support(shuffled=True)
    assert torch.equal(
        build_head("ridge", bad, encoder=None)(TEXT)(features), RidgeSettings().build(TEXT, bad)(features)
    )
    assert torch.equal(build_head("ridge", bad, encoder=None, floor=True)(TEXT)(features), TEXT(features))

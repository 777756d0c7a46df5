from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize, one_hot

from rag_clip.classifiers.ballad import (
    Ballad,
    BalladSettings,
    adapt,
    adapter_schedule,
    class_aware,
)
from rag_clip.classifiers.zero_shot import ZeroShot, zero_shot
from rag_clip.data import Features, LabelSet, Support, Validation
from rag_clip.prompts.templates import template_prompts
from rag_clip.testing import ToyEncoder, check_head
from rag_clip.training.loop import Schedule, rate_at

LABELS = LabelSet(("red", "green", "blue", "grey"))
SHORT = Schedule(3, 4, 0.2, "sgd")
STILL = Schedule(1, 4, 1e-30, "sgd", weight_decay=0)
EVERY = torch.ones(4, dtype=torch.bool)


def text() -> ZeroShot:
    return zero_shot(template_prompts(LABELS), ToyEncoder())


def draw(rows: list[int], seed: int = 0) -> torch.Tensor:
    """Unit features near a turned text of each class."""
    turn = torch.randn(32, 32, generator=torch.Generator().manual_seed(4)) / 32**0.5
    centres = normalize(text().weights @ (torch.eye(32) + turn), dim=-1)
    noise = torch.randn(len(rows), 32, generator=torch.Generator().manual_seed(seed))
    return normalize(centres[rows] + 0.1 * noise, dim=-1)


def support_of(rows: list[int], seed: int = 0) -> Support:
    names = tuple(f"image {row}" for row in range(len(rows)))
    targets = one_hot(torch.tensor(rows), 4).float()
    return Support(LABELS, draw(rows, seed), targets, torch.ones(len(rows)), ("shot",) * len(rows), names)


LONG_TAIL = [0] * 40 + [1] * 12 + [2] * 4 + [3]


def test_the_residual_adapter_gives_the_feature_computed_by_hand():
    swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    found = adapt(torch.tensor([[3.0, 4.0]]), swap, share=0.2)  # (3.2, 3.8) / |(3.2, 3.8)|
    torch.testing.assert_close(found, torch.tensor([[0.644136, 0.764911]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(adapt(torch.tensor([[0.6, 0.8]]), swap, share=0.2), found)


@pytest.mark.parametrize("start", ["identity", "random"])
def test_heads_meet_the_contract(start):
    soft = support_of([0, 0, 0, 1, 2, 2, 3, 3])
    targets = 0.75 * soft.shares + 0.25 * soft.shares.roll(1, 0)
    soft = replace(soft, targets=targets, relevance=torch.linspace(0.3, 1, 8))

    def build(prompts, support):
        return BalladSettings(start=start, schedule=SHORT).build(zero_shot(prompts, ToyEncoder()), support)

    for support in (soft, support_of([0, 0, 1, 3])):
        check_head(build, template_prompts(LABELS), support, Features(draw([0, 1, 2, 3, 3], seed=3)))


def test_untrained_or_without_share_or_relevance_it_is_zero_shot():
    features, support = Features(draw([0, 1, 2, 3], seed=2)), support_of(LONG_TAIL)
    doubtful = replace(support, relevance=torch.zeros(len(support)))
    heads = [
        BalladSettings(schedule=STILL).build(text(), support),
        BalladSettings(share=0, start="random", schedule=SHORT).build(text(), support),
        BalladSettings(schedule=SHORT).build(text(), doubtful),
        Ballad(text(), torch.eye(32), 0.7, EVERY),
    ]
    for head in heads:
        torch.testing.assert_close(head(features), text()(features), rtol=0, atol=1e-5)


def test_one_step_is_that_of_the_loss_in_float64():
    support = support_of([0, 1, 2, 3])
    head = BalladSettings(schedule=Schedule(1, 16, 0.2, "sgd", weight_decay=0)).build(text(), support)
    adapter = torch.eye(32, dtype=torch.float64).requires_grad_()
    rows = [int(row) for row in class_aware(LABELS.names, support.references)(4, torch.Generator().manual_seed(0))]
    given = support.features.double()[rows]
    moved = 0.2 * given @ adapter.T + 0.8 * given
    logits = 20 * (moved / moved.norm(dim=1, keepdim=True)) @ text().weights.double().T
    gradient = torch.autograd.grad(cross_entropy(logits, torch.tensor(rows)), adapter)[0]
    torch.testing.assert_close(head.adapter, (adapter - 0.2 * gradient).detach().float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("images", [8, 16, 40])  # of 32 axes, with the four texts 12, 20 and all of them are used
def test_training_in_the_span_of_the_images_is_training_in_float64(images):
    support = support_of([0, 1, 2, 3] * (images // 4))
    schedule = Schedule(12, 64, 2.0, "sgd", weight_decay=0.05)
    head = BalladSettings(schedule=schedule).build(text(), support)
    adapter, speed = torch.eye(32, dtype=torch.float64).requires_grad_(), torch.zeros(32, 32, dtype=torch.float64)
    generator, given = torch.Generator().manual_seed(0), support.features.double()
    sampler = class_aware([LABELS.names[row % 4] for row in range(images)], support.references)
    for step in range(12):
        rows = sampler(images, generator)
        moved = normalize(0.2 * given[rows] @ adapter.T + 0.8 * given[rows], dim=1)
        loss = cross_entropy(20 * moved @ text().weights.double().T, rows % 4)
        speed = 0.9 * speed + torch.autograd.grad(loss, adapter)[0] + 0.05 * adapter.detach()
        adapter = (adapter.detach() - rate_at(schedule, step, total=12) * speed).requires_grad_()
    assert float((adapter.detach() - torch.eye(32)).abs().max()) > 0.1
    torch.testing.assert_close(head.adapter, adapter.detach().float(), rtol=0, atol=1e-5)


def test_a_class_without_images_keeps_its_text_logit():
    head = BalladSettings(schedule=SHORT).build(text(), support_of([0] * 9 + [1, 3]))
    features = Features(draw([0, 1, 2, 3]))
    assert torch.equal(head(features)[:, 2], text()(features)[:, 2])
    assert not torch.allclose(head(features)[:, 0], text()(features)[:, 0], atol=1e-3, rtol=0)


def test_classes_are_drawn_equally_often_however_many_images_they_have():
    classes = [LABELS.names[row] for row in LONG_TAIL]
    references = [f"image {row}" for row in range(len(classes))]
    drawn = class_aware(classes, references)(4 * 16, torch.Generator().manual_seed(1)).tolist()
    assert Counter(classes[row] for row in drawn) == {"red": 16, "green": 16, "blue": 16, "grey": 16}
    assert len({row for row in drawn if classes[row] == "red"}) == 16  # none twice before every one was drawn
    assert [len({classes[row] for row in drawn[start : start + 4]}) for start in (0, 4, 8)] == [1, 1, 1]


def test_draws_follow_from_names_and_not_from_the_order_of_rows():
    classes, references = ["b", "a", "b", "a", "a"], ["v", "w", "x", "y", "z"]
    order = [3, 0, 4, 2, 1]
    first = class_aware(classes, references)(5, torch.Generator().manual_seed(3))
    moved = class_aware([classes[row] for row in order], [references[row] for row in order])
    assert [order[row] for row in moved(5, torch.Generator().manual_seed(3)).tolist()] == first.tolist()


def test_learning_from_a_long_tail_lifts_the_accuracy_over_all_classes():
    truth = torch.tensor([0, 1, 2, 3] * 25)
    features = Features(draw(truth.tolist(), seed=8))
    head = BalladSettings(schedule=Schedule(30, 64, 0.2, "sgd")).build(text(), support_of(LONG_TAIL))
    before, after = (float((each(features).argmax(1) == truth).float().mean()) for each in (text(), head))
    assert (round(before, 2), after > 0.85) == (0.67, True)


def test_validation_keeps_the_best_epoch():
    schedule = Schedule(6, 8, 3.0, "sgd", decay="constant")
    unseen, truth = Features(draw([0, 1, 2, 3] * 8, seed=9)), torch.arange(4).repeat(8)
    chosen = BalladSettings(schedule=schedule).build(
        text(), support_of(LONG_TAIL), validation=Validation(unseen, LABELS, truth)
    )
    runs = [
        BalladSettings(schedule=replace(schedule, epochs=epochs)).build(text(), support_of(LONG_TAIL))
        for epochs in range(1, 7)
    ]
    scores = [(head(unseen).argmax(1) == truth).float().mean() for head in runs]
    assert (chosen(unseen).argmax(1) == truth).float().mean() == max(scores)


def test_small_sets_get_a_hundred_steps_and_the_rate_suits_the_scale():
    supports = [support_of([0, 1] * half) for half in (8, 300, 6000)]
    schedules = [adapter_schedule(replace(text(), scale=50.0), support) for support in supports]
    assert [schedule.epochs for schedule in schedules] == [100, 50, 10]
    assert [schedule.rate for schedule in schedules] == [0.8, 0.8, 0.8]


def test_a_share_outside_zero_to_one_is_refused():
    with pytest.raises(ValueError, match=r"the adapter's share is 1.2; it must lie in \[0, 1\]"):
        BalladSettings(share=1.2).build(text(), support_of([0]))

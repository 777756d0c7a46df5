from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize, one_hot

from inputs.number_checks import near
from rag_clip.classifiers.cache import build_cache
from rag_clip.classifiers.search import Choice, choose, count_right, judged_images
from rag_clip.classifiers.tip_adapter import TipAdapterSettings
from rag_clip.classifiers.tip_x import TipXSettings
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support, Validation

CLASSES, WIDTH, SHOTS = 6, 12, 3
LABELS = LabelSet(tuple(f"class {index}" for index in range(CLASSES)))
DRAW = torch.Generator().manual_seed(11)
CENTRES = normalize(torch.randn(CLASSES, WIDTH, generator=DRAW), dim=-1)
TEXT = ZeroShot(LABELS, normalize(CENTRES + 0.25 * torch.randn(CLASSES, WIDTH, generator=DRAW), dim=-1), 40.0)


def images(targets: torch.Tensor) -> torch.Tensor:
    return normalize(CENTRES[targets] + 0.35 * torch.randn(len(targets), WIDTH, generator=DRAW), dim=-1)


SHOT_OF = torch.arange(CLASSES).repeat_interleave(SHOTS)
SUPPORT = Support(
    LABELS,
    images(SHOT_OF),
    one_hot(SHOT_OF, CLASSES).float(),
    torch.ones(len(SHOT_OF)),
    ("shot",) * len(SHOT_OF),
    tuple(map(str, range(len(SHOT_OF)))),
)
TRUTH = torch.arange(CLASSES).repeat(8)
VALIDATION = Validation(Features(images(TRUTH)), LABELS, TRUTH)


def subset(support: Support, rows: list[int]) -> Support:
    return replace(
        support,
        features=support.features[rows],
        targets=support.targets[rows],
        relevance=support.relevance[rows],
        origin=tuple(support.origin[row] for row in rows),
        references=tuple(support.references[row] for row in rows),
    )


def test_counting_along_a_line_equals_trying_every_weight():
    base, direction = torch.randn(2, 500, 7, generator=DRAW, dtype=torch.float64)
    direction[:50] = direction[:50, :1]  # these can only keep what the text says
    targets = torch.randint(7, (500,), generator=DRAW)
    weights = [-3.0, -0.5, 0.0, 0.1, 0.7, 2.0, 40.0]
    tried = [int(((base + weight * direction).argmax(1) == targets).sum()) for weight in weights]
    assert count_right(base, direction, targets, weights).tolist() == tried


def test_a_tie_at_a_weight_tried_is_counted_on_both_sides():
    base, direction = torch.randint(-3, 4, (2, 300, 4), generator=DRAW).double()
    targets = torch.randint(4, (300,), generator=DRAW)
    weights = [0.0, 0.5, 1.0, 2.0, 3.0]
    tried = [base + weight * direction for weight in weights]
    right = [int((logits <= logits.gather(1, targets[:, None])).all(1).sum()) for logits in tried]
    assert count_right(base, direction, targets, weights).tolist() == right


def test_the_choice_on_validation_is_the_best_of_every_setting_tried():
    grid = {"alphas": (0.5, 4.0, 30.0), "betas": (1.0, 6.0, 20.0), "gammas": (0.5, 8.0, 25.0)}
    tried = {
        (alpha, beta, gamma): TipXSettings(alpha=alpha, beta=beta, gamma=gamma).build(TEXT, SUPPORT)(
            VALIDATION.features
        )
        for alpha in grid["alphas"]
        for beta in grid["betas"]
        for gamma in grid["gammas"]
    }
    right = {setting: float((logits.argmax(1) == TRUTH).float().mean()) for setting, logits in tried.items()}
    tied = [setting for setting in tried if right[setting] == max(right.values())]
    best = min(tied, key=lambda setting: float(cross_entropy(tried[setting], TRUTH)))
    judged = judged_images(TEXT, SUPPORT, VALIDATION)
    assert judged is not None
    head = TipXSettings(alpha=1, beta=1, gamma=1).build(TEXT, SUPPORT)
    text = head.text_affinities(judged.logits, head.cache.cosines(judged.features))
    choice = choose(judged, head.cache, scale=TEXT.scale, text=text, **grid)
    assert (choice.alpha, choice.beta, choice.gamma, choice.by) == (*best, "validation")
    assert choice.accuracy == pytest.approx(right[best])


def test_of_equally_good_settings_the_one_nearest_to_the_texts_is_chosen():
    cache = build_cache(TEXT, replace(SUPPORT, relevance=torch.zeros(len(SUPPORT))))  # no image votes: all are equal
    judged = judged_images(TEXT, SUPPORT, VALIDATION)
    assert judged is not None
    choice = choose(judged, cache, scale=40.0, alphas=(0.5, 1.0, 2.0), betas=(1.0, 3.0), gammas=(0.0, 1.0))
    assert (choice.alpha, choice.beta, choice.gamma) == (0.5, 1.0, 0.0)


def test_leaving_one_out_equals_building_the_head_without_the_image():
    judged = judged_images(TEXT, SUPPORT, None)
    assert judged is not None
    alone = []
    for row in range(len(SUPPORT)):
        without = subset(SUPPORT, [other for other in range(len(SUPPORT)) if other != row])
        # as many votes as the whole set has
        head = TipAdapterSettings(alpha=12 * len(SUPPORT) / len(without), beta=7).build(TEXT, without)
        alone.append(head(Features(SUPPORT.features[row : row + 1])))
    cache = build_cache(TEXT, SUPPORT)
    votes = cache.count(torch.exp(-7 * (1 - cache.cosines(judged.features))) * judged.allowed, judged.share)
    torch.testing.assert_close(judged.logits + TEXT.scale / 100 * 12 * votes, torch.cat(alone), atol=2e-5, rtol=0)
    choice = choose(judged, cache, scale=TEXT.scale, alphas=(12.0,), betas=(7.0,))
    accuracy = float((torch.cat(alone).argmax(1) == SHOT_OF).float().mean())
    assert choice == Choice(12.0, 7.0, 0.0, "leave-one-out", near(accuracy))


def test_leaving_out_skips_classes_of_one_image_and_centres_where_some_have_none():
    rows = [0, 1, 2, 3, 4, 5, 6, 9, 10]  # class 2 has one image, classes 4 and 5 none
    judged = judged_images(TEXT, subset(SUPPORT, rows), None)
    assert judged is not None
    assert judged.targets.tolist() == [0, 0, 0, 1, 1, 1, 3, 3]
    cache = build_cache(TEXT, subset(SUPPORT, rows))
    votes = cache.count(judged.allowed, judged.share)
    assert torch.equal(votes[:, 4:], torch.zeros(8, 2))
    torch.testing.assert_close(votes.sum(1), torch.zeros(8), atol=1e-5, rtol=0)


@pytest.mark.parametrize("origin", ["retrieved", "synthesised"])
def test_images_that_a_classifier_chose_do_not_judge(origin):
    support = replace(SUPPORT, origin=(origin,) * len(SUPPORT))
    assert TipAdapterSettings().build(TEXT, support).choice == Choice(1.17, 1.0, by="default")
    assert TipXSettings().build(TEXT, support).choice == Choice(1.17, 1.0, 5.0, by="default")
    assert TipAdapterSettings().build(TEXT, support, validation=VALIDATION).choice.by == "validation"


def test_one_shot_falls_back_to_the_default_and_given_settings_are_kept():
    one = subset(SUPPORT, list(range(0, len(SUPPORT), SHOTS)))
    assert TipAdapterSettings(beta=4).build(TEXT, one).choice == Choice(1.17, 4, by="default")
    assert TipAdapterSettings(alpha=2, beta=3).build(TEXT, SUPPORT, validation=VALIDATION).choice == Choice(2, 3)
    assert TipAdapterSettings(alpha=2).build(TEXT, SUPPORT).choice.alpha == 2
    assert TipXSettings(alpha=2, beta=3, gamma=4).build(TEXT, SUPPORT).choice == Choice(2, 3, 4)


def test_settings_do_not_depend_on_the_order_of_the_images():
    order = np.random.default_rng(0).permutation(len(SUPPORT)).tolist()
    assert (
        TipAdapterSettings().build(TEXT, subset(SUPPORT, order)).choice
        == TipAdapterSettings().build(TEXT, SUPPORT).choice
    )


def test_validation_that_does_not_fit_is_refused():
    other = replace(VALIDATION, labels=LabelSet(tuple(reversed(LABELS.names))))
    narrow = replace(VALIDATION, features=Features(VALIDATION.features.pooled[:, :4]))
    broken = replace(
        VALIDATION, features=Features(VALIDATION.features.pooled.clone().index_fill_(0, torch.tensor(3), torch.nan))
    )
    for validation, message in (
        (other, "validation set has .* classes other than the .* of the prompts, or another order"),
        (narrow, "the validation set is 4 wide, the prompts 12; encode both with the same encoder"),
        (broken, "a validation feature is not finite; encode its image again"),
    ):
        with pytest.raises(ValueError, match=message):
            TipAdapterSettings().build(TEXT, SUPPORT, validation=validation)

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize, one_hot

from rag_clip.classifiers.cache import Mode, build_cache
from rag_clip.classifiers.evidence import one_label
from rag_clip.classifiers.tip_adapter import TipAdapterFSettings, TipAdapterSettings, accuracy, key_loss
from rag_clip.classifiers.zero_shot import ZeroShot, zero_shot
from rag_clip.data import Features, LabelSet, Prompts, Support, Validation
from rag_clip.prompts.templates import template_prompts
from rag_clip.protocols import Classifier
from rag_clip.testing import ToyEncoder, check_head, permute_labels
from rag_clip.training.loop import Schedule

CLASSES, WIDTH = 5, 16
LABELS = LabelSet(tuple(f"class {index}" for index in range(CLASSES)))
CENTRES = normalize(torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0)), dim=-1)


def draw(rows: list[int], seed: int, noise: float = 0.2) -> torch.Tensor:
    """Unit features near the centres of the classes given."""
    generator = torch.Generator().manual_seed(seed)
    return normalize(CENTRES[rows] + noise * torch.randn(len(rows), WIDTH, generator=generator), dim=-1)


def support_of(rows: list[int], *, origin: str = "shot", labels: LabelSet = LABELS, seed: int = 1) -> Support:
    targets = one_hot(torch.tensor(rows), len(labels)).float()
    names = tuple(f"image {row}" for row in range(len(rows)))
    return Support(labels, draw(rows, seed), targets, torch.ones(len(rows)), (origin,) * len(rows), names)


def text_classifier(scale: float = 100.0, bias: float = 0.0) -> ZeroShot:
    noise = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(9))
    return ZeroShot(LABELS, normalize(CENTRES + 0.25 * noise, dim=-1), scale, bias)


BALANCED = sorted(list(range(CLASSES)) * 4)
UNEVEN = [0] * 7 + [1] + [2] * 3 + [3] * 2 + [4]
QUERIES = Features(draw(list(range(CLASSES)) * 6, seed=5))
TRUTH = torch.arange(CLASSES).repeat(6)


def equation(classifier: ZeroShot, support: Support, alpha: float, beta: float, *, balanced: bool) -> np.ndarray:
    """The equation, a query and a support image at a time in float64; every class has support."""
    f, keys, text = (value.double().numpy() for value in (QUERIES.pooled, support.features, classifier.weights))
    targets, relevance = support.shares.double().numpy(), support.relevance.double().numpy()
    images = targets.sum(0)
    rows = []
    for query in f:
        logits = classifier.scale * text @ query + classifier.bias
        for key, target, trust in zip(keys, targets, relevance, strict=True):
            vote = np.exp(-beta * (1 - query @ key)) * trust * target
            logits = logits + classifier.scale / 100 * alpha * vote * (images.mean() / images if balanced else 1)
        rows.append(logits)
    return np.stack(rows)


def test_two_images_add_the_votes_computed_by_hand():
    labels = LabelSet(("a", "b"))
    classifier = ZeroShot(labels, torch.eye(2), 50.0, 1.0)
    support = Support(labels, torch.eye(2), torch.eye(2), torch.tensor([1.0, 0.5]), ("shot",) * 2, ("x", "y"))
    logits = TipAdapterSettings(alpha=4, beta=2).build(classifier, support)(Features(torch.tensor([[0.6, 0.8]])))
    # 50 * 0.6 + 1 + 0.5 * 4 * exp(-2 * 0.4) = 31 + 2 * 0.449329; 50 * 0.8 + 1 + 2 * 0.5 * exp(-2 * 0.2) = 41 + 0.670320
    torch.testing.assert_close(logits, torch.tensor([[31.898658, 41.670320]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["balanced", "published"])
def test_uneven_soft_and_doubtful_votes_equal_the_equation_in_float64(mode):
    support = support_of(UNEVEN)
    soft = 0.8 * support.shares + 0.2 / CLASSES
    support = replace(support, targets=soft, relevance=torch.linspace(0.2, 1, len(UNEVEN)))
    classifier = text_classifier(scale=30, bias=-4)
    logits = TipAdapterSettings(alpha=6, beta=3.5, mode=mode).build(classifier, support)(QUERIES).double().numpy()
    expected = equation(classifier, support, 6, 3.5, balanced=mode == "balanced")
    np.testing.assert_allclose(logits, expected, atol=2e-5, rtol=0)


def test_without_alpha_it_is_zero_shot():
    classifier = text_classifier(bias=-3)
    head = TipAdapterSettings(alpha=0, beta=5).build(classifier, support_of(UNEVEN))
    torch.testing.assert_close(head(QUERIES), classifier(QUERIES), atol=0, rtol=0)


def test_a_sharp_heavy_cache_is_the_nearest_neighbour():
    support = support_of(BALANCED)
    head = TipAdapterSettings(alpha=1e30, beta=100).build(text_classifier(), support)
    nearest = support.shares[(QUERIES.pooled @ support.features.T).argmax(1)].argmax(1)
    assert torch.equal(head(QUERIES).argmax(1), nearest)


def test_equal_counts_make_balanced_the_published_form():
    heads = [
        TipAdapterSettings(alpha=9, beta=5, mode=m).build(text_classifier(), support_of(BALANCED))
        for m in ("balanced", "published")
    ]
    torch.testing.assert_close(heads[0](QUERIES), heads[1](QUERIES), atol=1e-5, rtol=0)


def test_copies_of_an_image_do_not_make_its_class_louder_unless_published():
    once, copied = [0, 1, 2, 3, 4], [0] * 10 + [1, 2, 3, 4]
    support = support_of(once)
    rows = [0] * 9 + [0, 1, 2, 3, 4]
    more = replace(support_of(copied), features=support.features[rows])

    def shares(held: Support, mode: Mode) -> torch.Tensor:
        cache = build_cache(text_classifier(), held, mode=mode)
        votes = cache.count(torch.exp(-3 * (1 - cache.cosines(QUERIES.pooled))))
        return votes / votes[:, 1:2]

    torch.testing.assert_close(shares(more, "balanced"), shares(support, "balanced"), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shares(more, "published")[:, 0], 10 * shares(support, "published")[:, 0])


def test_every_image_twice_at_half_relevance_changes_nothing():
    support = support_of(UNEVEN)
    rows = [*range(len(UNEVEN))] * 2
    twice = replace(
        support,
        features=support.features[rows],
        targets=support.targets[rows],
        relevance=support.relevance[rows] / 2,
        origin=support.origin * 2,
        references=support.references * 2,
    )
    logits, other = (TipAdapterSettings(alpha=9, beta=5).build(text_classifier(), s)(QUERIES) for s in (support, twice))
    torch.testing.assert_close(other, logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [TipAdapterSettings, TipAdapterFSettings])
def test_a_class_without_images_keeps_its_text_logit_and_is_not_outvoted(kind):
    support = support_of([0] * 8 + [1] * 8 + [3] * 8 + [4] * 8)
    classifier = text_classifier(scale=20)
    settings = {"alpha": 10, "beta": 1}
    logits = kind(**settings).build(classifier, support)(QUERIES)
    torch.testing.assert_close(logits[:, 2], classifier(QUERIES)[:, 2], atol=1e-5, rtol=0)
    published = kind(mode="published", **settings).build(classifier, support)(QUERIES)
    found = [int((answer.argmax(1)[TRUTH == 2] == 2).sum()) for answer in (classifier(QUERIES), logits, published)]
    assert found == [4, 4, 0]


def test_images_of_no_relevance_leave_the_text_alone():
    support = replace(support_of(BALANCED), relevance=torch.zeros(len(BALANCED)))
    torch.testing.assert_close(
        TipAdapterSettings(alpha=9, beta=5).build(text_classifier(), support)(QUERIES), text_classifier()(QUERIES)
    )


def test_another_scale_multiplies_every_logit():
    logits, low = (
        TipAdapterSettings(alpha=9, beta=5).build(text_classifier(scale), support_of(UNEVEN))(QUERIES)
        for scale in (100, 20)
    )
    torch.testing.assert_close(low, 0.2 * logits, atol=1e-5, rtol=0)


def test_one_class_works():
    labels = LabelSet(("only",))
    support = Support(labels, CENTRES[:2], torch.ones(2, 1), torch.ones(2), ("shot",) * 2, ("x", "y"))
    classifier = ZeroShot(labels, CENTRES[2:3], 100.0)
    for settings in (TipAdapterSettings(), TipAdapterFSettings()):
        assert settings.build(classifier, support)(QUERIES).isfinite().all()


COLOURS = LabelSet(("red", "green", "blue", "red green", "green blue"))


def toy(shots: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    mix = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]]).repeat_interleave(shots, 0)
    noise = torch.rand(len(mix), 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    pixels = 255 * (0.7 * mix[:, :, None, None] + 0.3 * noise)
    return ToyEncoder().encode_pixels(pixels.to(torch.uint8)).pooled, torch.arange(5).repeat_interleave(shots)


@pytest.mark.parametrize("settings", [{"alpha": 9, "beta": 5}, {}, {"mode": "published"}])
@pytest.mark.parametrize("kind", [TipAdapterSettings, TipAdapterFSettings])
def test_it_keeps_the_contract_of_a_head(kind, settings):
    pooled, truth = toy(shots=3)
    count = len(truth)
    support = Support(COLOURS, pooled, one_hot(truth, 5).float(), torch.ones(count), ("shot",) * count, ("x",) * count)

    def head(prompts: Prompts, held: Support) -> Classifier:
        return kind(**settings).build(zero_shot(prompts, ToyEncoder()), held)

    check_head(head, template_prompts(COLOURS), support, Features(toy(shots=2, seed=1)[0]))


def test_trained_keys_classify_new_images_better_and_the_given_support_stays():
    support = support_of(BALANCED)
    before = support.features.clone()
    plain = TipAdapterSettings(alpha=30, beta=1).build(text_classifier(scale=20), support)
    trained = TipAdapterFSettings(alpha=30, beta=1).build(text_classifier(scale=20), support)
    loss, lower = (cross_entropy(head(QUERIES), TRUTH).item() for head in (plain, trained))
    assert lower < 0.8 * loss
    assert torch.equal(support.features, before)
    assert not trained.cache.keys.requires_grad


@pytest.mark.parametrize(("mode", "itself"), [("balanced", 0.0), ("published", 1.0)])
def test_the_keys_learn_by_relevance_and_an_image_votes_on_itself_only_alone_or_published(mode, itself):
    support = replace(support_of([0, 0, 1]), relevance=torch.tensor([1.0, 0.5, 0.25]))
    given = torch.randn(3, CLASSES, generator=torch.Generator().manual_seed(2)).double()
    seen = []

    def logits(rows: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        seen.append(allowed.tolist())
        return given[rows]

    loss = key_loss(support, mode, logits)(torch.tensor([2, 0]))
    each = cross_entropy(given, support.shares.argmax(1), reduction="none")
    assert float(loss) == pytest.approx(float(0.25 * each[2] + each[0]) / 1.25)
    assert seen == [[[1.0, 1.0, 1.0], [itself, 1.0, 1.0]]]


def test_validation_counts_right_answers_that_half_precision_would_tie():
    text = ZeroShot(LabelSet(("a", "b")), torch.tensor([[1.0, 0.0], [1.0, 0.01]]), 1.0)
    half = Features(torch.tensor([[1.0, 0.01]]).half())
    assert accuracy(text, Validation(half, text.labels, torch.tensor([1]))) == 1.0
    assert accuracy(text, Validation(half, text.labels, torch.tensor([0]))) == 0.0


def test_the_epoch_kept_is_the_best_on_validation():
    support = support_of(BALANCED)
    flipped = Validation(Features(support.features), LABELS, support.shares.argmax(1).roll(4))
    stay = TipAdapterFSettings(alpha=3, beta=5, schedule=Schedule(epochs=30)).build(
        text_classifier(), support, validation=flipped
    )
    one = TipAdapterFSettings(alpha=3, beta=5, schedule=Schedule(epochs=30)).build(text_classifier(), support)
    right = [
        int((head(Features(support.features)).argmax(1) == one_label("validation set", flipped.targets)).sum())
        for head in (stay, one)
    ]
    assert right[0] >= right[1]
    assert not torch.equal(stay.cache.keys, one.cache.keys)


def test_support_of_other_classes_or_width_is_refused():
    support = support_of(BALANCED)
    with pytest.raises(ValueError, match="5 classes other than the 5 of the prompts, or another order"):
        TipAdapterSettings().build(text_classifier(), replace(support, labels=permute_labels(LABELS, [1, 0, 2, 3, 4])))
    with pytest.raises(ValueError, match="support set is 8 wide, the prompts 16; encode both with the same encoder"):
        TipAdapterSettings().build(text_classifier(), replace(support, features=support.features[:, :8]))

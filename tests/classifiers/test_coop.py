from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize, one_hot

from rag_clip.classifiers.contexts import Context
from rag_clip.classifiers.coop import CoOpSettings, learned_zero_shot, published_schedule
from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import Features, LabelSet, Support, Validation
from rag_clip.files.learned_prompts import read_learned_prompts, write_learned_prompts
from rag_clip.models.open_clip import load_encoder
from rag_clip.prompts.templates import template_prompts
from rag_clip.testing import ToyEncoder, check_head
from rag_clip.training.loop import Schedule

LABELS = LabelSet(("flag", "old signal", "Brai", "red_sign"))
SHORT = Schedule(3, 32, 0.05, "sgd")
STILL = Schedule(1, 32, 1e-30, "sgd", weight_decay=0)


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("demo", device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def text(encoder):
    return zero_shot(template_prompts(LABELS), encoder)


def draw(rows: list[int], seed: int = 0) -> torch.Tensor:
    """Unit features around a centre of each class that its text knows nothing of."""
    centres = torch.randn(len(LABELS), 128, generator=torch.Generator().manual_seed(5))
    noise = torch.randn(len(rows), 128, generator=torch.Generator().manual_seed(seed))
    return normalize(centres[rows] + 0.5 * noise, dim=-1)


def support_of(rows: list[int]) -> Support:
    targets = one_hot(torch.tensor(rows), len(LABELS)).float()
    names = tuple(f"image {row}" for row in range(len(rows)))
    return Support(LABELS, draw(rows), targets, torch.ones(len(rows)), ("shot",) * len(rows), names)


@pytest.mark.parametrize("context", [Context(4), Context(2, "front", per_class=True)])
def test_heads_meet_the_contract(encoder, context):
    def build(prompts, support):
        return CoOpSettings(context=context, schedule=SHORT).build(
            zero_shot(prompts, encoder), support, encoder=encoder
        )

    support = support_of([0, 0, 0, 1, 2, 2, 3])
    soft = 0.75 * support.shares + 0.25 * support.shares.roll(1, 0)
    support = replace(support, targets=soft, relevance=torch.linspace(0.3, 1, 7))
    check_head(build, template_prompts(LABELS), support, Features(draw([0, 1, 2, 3, 3], seed=3)))


def test_a_context_of_words_that_is_not_trained_is_the_template_of_these_words(encoder, text):
    head = CoOpSettings(context=Context(words="a photo of"), schedule=STILL).build(
        text, support_of([0, 1, 2, 3]), encoder=encoder
    )
    expected = encoder.encode_text(
        ["a photo of flag.", "a photo of old signal.", "a photo of Brai.", "a photo of red sign."]
    )
    torch.testing.assert_close(head.learned.weights, expected, rtol=0, atol=1e-6)


def test_one_step_is_that_of_the_published_loss(encoder, text):
    support = support_of([0, 0, 1, 2, 3])
    context, schedule = Context(words="photo of a"), Schedule(1, 32, 0.5, "sgd", weight_decay=0)
    head = CoOpSettings(context=context, mode="published", schedule=schedule).build(text, support, encoder=encoder)
    model, start = encoder.model, encoder.token_vectors(encoder.tokenizer(["photo of a"])[0, 1:4])
    vectors = start.clone().requires_grad_()
    tokens = encoder.tokenizer([f"photo of a {name}." for name in ("flag", "old signal", "Brai", "red sign")])
    x = model.token_embedding(tokens)
    x = torch.cat([x[:, :1], vectors.expand(4, -1, -1), x[:, 4:]], dim=1) + model.positional_embedding
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))
    weights = normalize(x[torch.arange(4), tokens.argmax(1)] @ model.text_projection, dim=-1)
    loss = cross_entropy(encoder.scale * support.features @ weights.T, torch.tensor([0, 0, 1, 2, 3]))
    expected = start - 0.5 * torch.autograd.grad(loss, vectors)[0]
    torch.testing.assert_close(head.prompts.context, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("context", "share"),
    [(Context(4), 0.8), (Context(4, "middle"), 0.8), (Context(4, "front", per_class=True), 0.5)],
)
def test_training_lowers_the_loss_on_images_that_the_text_knows_nothing_of(encoder, text, context, share):
    support = support_of([0, 1, 2, 3] * 3)
    schedule = Schedule(40, 32, 0.1, "sgd", warm_up=1)
    before = cross_entropy(text(Features(support.features)), support.shares)
    head = CoOpSettings(context=context, schedule=schedule).build(text, support, encoder=encoder)
    assert cross_entropy(head(Features(support.features)), support.shares) < share * before


def test_a_class_without_images_keeps_its_text_and_no_class_at_all_keeps_every_text(encoder, text):
    features = Features(draw([0, 1, 2]))
    head = CoOpSettings(context=Context(4), schedule=SHORT).build(text, support_of([0, 1, 3]), encoder=encoder)
    assert torch.equal(head(features)[:, 2], text(features)[:, 2])
    doubtful = replace(support_of([0, 1, 3]), relevance=torch.zeros(3))
    assert torch.equal(
        CoOpSettings(context=Context(4)).build(text, doubtful, encoder=encoder)(features), text(features)
    )


def test_copies_of_an_image_weigh_no_more_than_one_unless_published(encoder, text):
    once, copied = support_of([0, 1, 2, 3]), support_of([0, 1, 2, 3, 3, 3])
    copied = replace(copied, features=once.features[[0, 1, 2, 3, 3, 3]])
    weights = {
        (mode, len(support)): CoOpSettings(mode=mode, schedule=SHORT)
        .build(text, support, encoder=encoder)
        .learned.weights
        for mode in ("balanced", "published")
        for support in (once, copied)
    }
    torch.testing.assert_close(weights["balanced", 6], weights["balanced", 4], rtol=0, atol=1e-4)
    torch.testing.assert_close(weights["published", 4], weights["balanced", 4], rtol=0, atol=1e-5)
    assert not torch.allclose(weights["published", 6], weights["published", 4], rtol=0, atol=1e-3)


def test_validation_keeps_the_best_epoch(encoder, text):
    schedule = Schedule(6, 4, 0.3, "sgd", decay="constant")
    given, unseen = support_of([0, 1, 2, 3] * 2), Features(draw([0, 1, 2, 3] * 8, seed=9))
    truth = torch.arange(4).repeat(8)
    validation = Validation(unseen, LABELS, truth)
    heads = [
        CoOpSettings(context=Context(2), schedule=schedule).build(text, given, encoder=encoder, validation=each)
        for each in (validation, None)
    ]
    chosen, last = ((head(unseen).argmax(1) == truth).float().mean() for head in heads)
    runs = [
        CoOpSettings(context=Context(2), schedule=replace(schedule, epochs=epochs)).build(text, given, encoder=encoder)
        for epochs in range(1, 7)
    ]
    assert chosen == max((head(unseen).argmax(1) == truth).float().mean() for head in runs)
    assert chosen >= last


def test_learned_prompts_classify_again_from_their_file_and_a_shared_context_fits_other_names(tmp_path, encoder, text):
    head = CoOpSettings(context=Context(4), schedule=SHORT).build(text, support_of([0, 1, 2, 3]), encoder=encoder)
    write_learned_prompts(head.prompts, tmp_path / "learned.safetensors")
    prompts, features = read_learned_prompts(tmp_path / "learned.safetensors"), Features(draw([0, 3]))
    assert torch.equal(learned_zero_shot(prompts, encoder)(features), head(features))
    fewer = LabelSet(("red_sign", "flag"))
    torch.testing.assert_close(learned_zero_shot(prompts, encoder, labels=fewer)(features), head(features)[:, [3, 0]])
    apart = (
        CoOpSettings(context=Context(4, per_class=True), schedule=STILL)
        .build(text, support_of([0, 1]), encoder=encoder)
        .prompts
    )
    with pytest.raises(ValueError, match="of its own, which other names cannot use; learn a shared one"):
        learned_zero_shot(apart, encoder, labels=fewer)


def test_epochs_follow_the_published_table():
    supports = [support_of([0, 1] * shots) for shots in (1, 2, 4, 8, 16)]
    assert [published_schedule(support).epochs for support in supports] == [50, 100, 100, 200, 200]


def test_an_encoder_without_a_text_tower_is_refused(text):
    with pytest.raises(ValueError, match="encoder 'toy' has no text tower to train through; name an open_clip model"):
        CoOpSettings().build(text, support_of([0, 1]), encoder=ToyEncoder())


def test_support_and_validation_of_other_labels_or_widths_are_refused(encoder, text):
    support = support_of([0, 1])
    with pytest.raises(ValueError, match="support set has 4 classes other than"):
        CoOpSettings().build(text, replace(support, labels=LabelSet(("a", "b", "c", "d"))), encoder=encoder)
    with pytest.raises(ValueError, match="support set is 64 wide, the prompts 128"):
        CoOpSettings().build(text, replace(support, features=support.features[:, :64]), encoder=encoder)
    other = Validation(Features(draw([0])), LabelSet(("a",)), torch.tensor([0]))
    with pytest.raises(ValueError, match="validation set has 1 class other than"):
        CoOpSettings().build(text, support, encoder=encoder, validation=other)

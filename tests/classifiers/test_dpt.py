from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy, layer_norm, normalize, one_hot

from rag_clip.classifiers.contexts import Context, draw_normal
from rag_clip.classifiers.coop import CoOpSettings, learned_zero_shot
from rag_clip.classifiers.dpt import DPTSettings, published_schedule
from rag_clip.classifiers.heads import HEADS, build_head
from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import Features, LabelSet, Support
from rag_clip.files.learned_prompts import read_learned_prompts, write_learned_prompts
from rag_clip.models.open_clip import load_encoder
from rag_clip.models.visual_prompts import ClassAware, appended, prompted, read_visual_prompts, start_visual_prompts
from rag_clip.prompts.templates import template_prompts
from rag_clip.testing import check_head
from rag_clip.training.loop import Schedule

LABELS = LabelSet(("flag", "old signal", "Brai", "red_sign"))
SHORT = Schedule(3, 32, 0.05, "sgd")
SMALL = DPTSettings(context=Context(4), length=2, top=2, guided=1, schedule=SHORT)


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("demo", device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def text(encoder):
    return zero_shot(template_prompts(LABELS), encoder)


def draw(rows: list[int], seed: int = 0) -> torch.Tensor:
    """Pixels of noise around a picture of each class that its text knows nothing of, uint8 [n, 3, 48, 48]."""
    centres = torch.randint(0, 200, (len(LABELS), 3, 6, 6), generator=torch.Generator().manual_seed(5))
    large = centres.repeat_interleave(8, 2).repeat_interleave(8, 3)
    noise = torch.randint(0, 56, (len(rows), 3, 48, 48), generator=torch.Generator().manual_seed(seed))
    return (large[rows] + noise).to(torch.uint8)


def pixels_of(support: Support) -> torch.Tensor:
    assert support.pixels is not None
    return support.pixels


def support_of(encoder, rows: list[int]) -> Support:
    targets, pixels = one_hot(torch.tensor(rows), len(LABELS)).float(), draw(rows)
    features = encoder.encode_pixels(pixels).pooled
    names = tuple(f"image {row}" for row in range(len(rows)))
    return Support(LABELS, features, targets, torch.ones(len(rows)), ("shot",) * len(rows), names, pixels=pixels)


def test_heads_meet_the_contract(encoder):
    def build(prompts, support):
        return SMALL.build(zero_shot(prompts, encoder), support, encoder=encoder)

    support = support_of(encoder, [0, 0, 0, 1, 2, 2, 3])
    features = encoder.encode_pixels(draw([0, 1, 2, 3, 3], seed=3))
    check_head(build, template_prompts(LABELS), replace(support, relevance=torch.linspace(0.3, 1, 7)), features)


def test_without_tokens_it_is_coop_bit_for_bit_on_the_frozen_image_tower(encoder, text):
    support, pixels = support_of(encoder, [0, 0, 1, 2]), draw([0, 1, 2, 3], seed=3)
    settings = DPTSettings(context=Context(4), length=0, top=0, guided=0, text_rate=1, schedule=SHORT)
    head = settings.build(text, support, encoder=encoder)
    coop = CoOpSettings(context=Context(4), schedule=SHORT).build(text, support, encoder=encoder)
    assert torch.equal(head.prompts.context, coop.prompts.context)
    assert torch.equal(head.learned.weights, coop.learned.weights)
    assert torch.equal(head.tower.encode_pixels(pixels).pooled, encoder.encode_pixels(pixels).pooled)


def by_hand(encoder, prompts, context, support):
    """Class vectors, image features and the o of each class-aware block, by the equations, with b = 3 and K = 2."""
    state, pixels = prompts.visual, support.pixels
    tokens = encoder.tokenizer([f"photo of a {name.replace('_', ' ')}." for name in LABELS.names])
    embedded = encoder.model.token_embedding(tokens)
    embedded = torch.cat([embedded[:, :1], context.expand(4, -1, -1), embedded[:, 4:]], 1)
    embedded = embedded + encoder.model.positional_embedding
    ended = encoder.model.ln_final(encoder.model.transformer(embedded, attn_mask=encoder.model.attn_mask))
    w = normalize(ended[torch.arange(4), tokens.argmax(1)] @ encoder.model.text_projection, dim=-1)
    ranked = (support.features @ state["texts"].T).argsort(1, descending=True)[:, :2]
    visual, attended = encoder.model.visual, []
    x = visual._embeds(encoder.normalised(pixels))
    for number, block in enumerate(visual.transformer.resblocks):
        length = x.shape[1]
        if number < 2:
            more = state["prompts"][number].expand(len(x), -1, -1)
        else:
            own = {k.split(".", 2)[2]: v for k, v in state.items() if k.startswith(f"generators.{number - 2}.")}
            q = w[ranked] @ own["lin.weight"].T + own["lin.bias"]
            keys = torch.cat([x.detach(), own["extra"].expand(len(x), -1, -1)], 1)
            scores = (q @ own["query.weight"].T) @ (keys @ own["key.weight"].T).transpose(1, 2) / 32**0.5
            attended.append(scores.softmax(-1) @ keys @ own["value.weight"].T)
            more = layer_norm(attended[-1] + q, (128,))
        x = block(torch.cat([x, more], 1))[:, :length]
    return w, normalize(visual.ln_post(x[:, 0]) @ visual.proj, dim=-1), attended, ranked


@pytest.mark.parametrize("guided", [0, 1])
def test_one_step_is_that_of_the_published_loss(encoder, text, guided):
    rows = [0, 0, 1, 2, 3]
    support, y, s = support_of(encoder, rows), torch.tensor(rows), encoder.scale
    schedule = Schedule(1, 32, 0.5, "sgd", weight_decay=0)
    settings = DPTSettings(
        context=Context(words="photo of a"),
        length=3,
        top=2,
        first=3,
        guided=guided,
        mode="published",
        schedule=schedule,
    )
    still = replace(settings, schedule=replace(schedule, rate=1e-30)).build(text, support, encoder=encoder).prompts
    context = still.context.clone().requires_grad_()
    learned = {name: value.clone() for name, value in still.visual.items()}
    names = [name for name in learned if name not in ("texts", "classes", "top")]
    for name in names:
        learned[name].requires_grad_()
    w, f, attended, ranked = by_hand(encoder, replace(still, visual=learned), context, support)
    loss = cross_entropy(s * f @ w.T, y)
    if guided:
        apart = cross_entropy(s * support.features @ w.T, y) + cross_entropy(s * f @ text.weights.T, y)
        loss = apart + 0.1 * loss
    own = ranked == y[:, None]
    assert 0 < int(own.sum()) < 5  # an image whose class is not among its K has no auxiliary loss
    auxiliary = []
    for block, o in enumerate(attended):
        drawn = torch.cat([draw_normal(1, 128, f"0 {block} {name}") for name in LABELS.names])
        logits = layer_norm(o[own], (128,)) @ drawn.T / 0.02 / (3 * 128) ** 0.5
        auxiliary.append(cross_entropy(logits, y[own.any(1)]))
    loss = loss + 0.3 * torch.stack(auxiliary).mean()
    gradients = torch.autograd.grad(loss, [context, *(learned[name] for name in names)], allow_unused=True)
    head = settings.build(text, support, encoder=encoder).prompts
    torch.testing.assert_close(head.context, still.context - 0.5 * 0.2 * gradients[0], rtol=0, atol=1e-5)
    for name, gradient in zip(names, gradients[1:], strict=True):
        if name.endswith(("norm.weight", "norm.bias")):
            continue  # `by_hand` leaves its scale and shift at 1 and 0
        torch.testing.assert_close(head.visual[name], still.visual[name] - 0.5 * gradient, rtol=0, atol=1e-5)


def test_guided_epochs_are_whole_epochs_whatever_the_batches(encoder, text):
    support = support_of(encoder, [0, 0, 1, 2, 3])

    def context(epochs: int, guided: int) -> torch.Tensor:
        settings = replace(SMALL, guided=guided, schedule=Schedule(epochs, 2, 0.05, "sgd"))  # three steps an epoch
        return settings.build(text, support, encoder=encoder).prompts.context

    assert torch.equal(context(1, 1), context(1, 9))
    assert not torch.equal(context(2, 1), context(2, 2))


def test_a_token_of_zeros_still_takes_attention_so_only_no_token_leaves_features_as_they_are(encoder, text):
    visual = start_visual_prompts(encoder, text.weights, length=0, top=2)
    generator = visual.generators[0]
    assert isinstance(generator, ClassAware)
    with torch.no_grad():
        for values in (generator.lin.weight, generator.lin.bias, generator.value.weight):
            values.zero_()
    pixels = draw([0, 1, 2, 3])

    def zeros(block: int, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.new_zeros(len(tokens), 2 if block == 3 else 0, tokens.shape[-1])

    with appended(encoder.model.visual, zeros):
        expected = encoder.encode_pixels(pixels).pooled
    made = prompted(encoder, visual).encode_pixels(pixels).pooled
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-6)
    moved = (made - encoder.encode_pixels(pixels).pooled).norm(dim=1)
    assert bool((moved > 1e-3).all())


def test_training_lowers_the_loss_on_images_that_the_text_knows_nothing_of(encoder, text):
    support = support_of(encoder, [0, 1, 2, 3] * 3)
    schedule = Schedule(25, 32, 0.05, "sgd", warm_up=1)
    before = cross_entropy(text(Features(support.features)), support.shares)
    losses = []
    for settings in (SMALL, replace(SMALL, top=0), replace(SMALL, length=0)):
        head = replace(settings, schedule=schedule, guided=5).build(text, support, encoder=encoder)
        losses.append(cross_entropy(head(head.tower.encode_pixels(pixels_of(support))), support.shares))
    assert max(losses) < 0.5 * before


def test_learned_prompts_classify_again_from_their_file(tmp_path, encoder, text):
    head = SMALL.build(text, support_of(encoder, [0, 1, 2, 3]), encoder=encoder)
    write_learned_prompts(head.prompts, tmp_path / "learned.safetensors")
    prompts = read_learned_prompts(tmp_path / "learned.safetensors")
    tower, pixels = prompted(encoder, read_visual_prompts(prompts.visual)), draw([0, 1, 2, 3], seed=3)
    assert torch.equal(tower.encode_pixels(pixels).pooled, head.tower.encode_pixels(pixels).pooled)
    assert tower.fingerprint == head.tower.fingerprint != encoder.fingerprint
    assert torch.equal(learned_zero_shot(prompts, encoder).weights, head.learned.weights)
    fewer = {name: value for name, value in prompts.visual.items() if name != "texts"}
    with pytest.raises(ValueError, match=r"the visual prompts are not complete \('texts'\); learn them again"):
        read_visual_prompts(fewer)
    with pytest.raises(ValueError, match="were learned for their own classes; use their names"):
        learned_zero_shot(prompts, encoder, labels=LabelSet(("flag",)))
    below = 3 * 2 * 128
    aware = 128 * 128 + 128 + 2 * 128 * 32 + 128 * 128 + 2 * 128 + 2 * 128
    assert head.parameters == 4 * 128 + below + aware


def test_a_class_without_images_keeps_its_text_and_no_class_at_all_keeps_both_towers(encoder, text):
    support = support_of(encoder, [0, 1, 3])
    assert torch.equal(SMALL.build(text, support, encoder=encoder).learned.weights[2], text.weights[2])
    doubtful = replace(support, relevance=torch.zeros(3))
    head = SMALL.build(text, doubtful, encoder=encoder)
    assert torch.equal(head(head.tower.encode_pixels(pixels_of(support))), text(Features(support.features)))


def test_the_floor_leaves_it_whole(encoder, text):
    support = support_of(encoder, [0, 1, 2, 3] * 2)
    floored = build_head(SMALL, support, encoder=encoder, floor=True)(text)
    whole = SMALL.build(text, support, encoder=encoder)
    features = whole.tower.encode_pixels(draw([0, 1, 2, 3] * 2))
    assert torch.equal(whole(features), floored(features))


def test_epochs_follow_the_published_schedule_and_the_head_says_what_it_needs(encoder):
    assert [published_schedule(support_of(encoder, [0, 1] * shots)).epochs for shots in (1, 2, 16)] == [60, 100, 100]
    assert HEADS["dpt"].needs == "support with its images, training"


def test_support_without_pixels_and_towers_without_the_block_are_refused(encoder, text):
    support = support_of(encoder, [0, 1])
    with pytest.raises(ValueError, match="must see each image of the support; give their pixels"):
        SMALL.build(text, replace(support, pixels=None), encoder=encoder)
    with pytest.raises(ValueError, match="block 5 cannot be the first with class-aware tokens; the image tower has 4"):
        replace(SMALL, first=5).build(text, support, encoder=encoder)
    with (
        pytest.raises(ValueError, match="the image tower Identity has no transformer blocks for visual prompts"),
        appended(torch.nn.Identity(), lambda block, tokens: tokens),
    ):
        pass
    with pytest.raises(ValueError, match="the support set has 2 features, but 1 row of pixels"):
        replace(support, pixels=pixels_of(support)[:1])
    with pytest.raises(ValueError, match="top is -1; give a number from 0"):
        DPTSettings(top=-1)

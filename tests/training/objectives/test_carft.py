"""Context-aware fine-tuning: its number by hand, its limits, and prompts that name no contexts."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from inputs.objectives import NAMES, build, check_objective, encoder, pairs
from rag_clip.data import LabelSet
from rag_clip.training.adapt import FINE_TUNING, Manner, adapt
from rag_clip.training.batches import Examples, Head
from rag_clip.training.objectives.carft import CarFt, CarFtLoss, divergence
from rag_clip.training.objectives.labels import Labels
from rag_clip.training.towers import Lock

TEMPLATES = ("a photo of {}.", "{} at dusk", "a close up of {}, isolated", "vintage {}")
SCHEDULE = replace(FINE_TUNING, steps=3, batch_size=4, rate=1e-3)


def examples(templates: tuple[str, ...] = TEMPLATES) -> Examples:
    """Return six images of three classes, whose texts have the templates."""
    texts = tuple(tuple(template.format(name) for template in templates) for name in NAMES)
    vectors = torch.stack([encoder().encode_text(group).mean(0) for group in texts])
    return replace(pairs(), head=Head(LabelSet(NAMES), normalize(vectors, dim=-1), texts))


@pytest.mark.parametrize("objective", [CarFt(), CarFt(weight=0.5, head="texts", smoothing=0.1)])
def test_the_contract_is_kept(objective: CarFt) -> None:
    check_objective(objective, examples())


@pytest.mark.parametrize(("scale", "wanted"), [(1, 0.0150), (10, 0.727281), (100, 11.3)])
def test_the_divergence_has_its_number_by_hand(scale: float, wanted: float) -> None:
    weights = normalize(torch.tensor([[1.0, 0], [0, 1], [1, 1]], dtype=torch.float64), dim=1)
    before = normalize(torch.tensor([[1, 0.2]], dtype=torch.float64), dim=1) @ weights.T
    after = normalize(torch.tensor([[1, 0.6]], dtype=torch.float64), dim=1) @ weights.T
    assert float(divergence(scale * before, scale * after)) == pytest.approx(wanted, abs=1e-6 if scale == 10 else 0.05)
    both = divergence(scale * before.repeat(2, 1), scale * torch.cat([after, before]))
    assert float(both) == pytest.approx(float(divergence(scale * before, scale * after)) / 2, rel=1e-12)


def test_without_weight_it_is_labels_bit_for_bit() -> None:
    loss, labels = build(CarFt(weight=0.0), examples=examples()), build(Labels(), examples=examples())
    assert loss[1](loss[2]).item() == labels[1](labels[2]).item()
    mine = adapt(encoder(), examples(), CarFt(weight=0.0), schedule=SCHEDULE).encoder.model.state_dict()
    other = adapt(encoder(), examples(), Labels(), schedule=SCHEDULE).encoder.model.state_dict()
    assert all(torch.equal(mine[name], values) for name, values in other.items())


def test_at_the_start_and_with_one_context_nothing_diverges() -> None:
    _, loss, batch = build(CarFt(), examples=examples())
    labels = build(Labels(), examples=examples())[1]
    assert loss(batch).item() == labels(batch).item()
    single = examples(TEMPLATES[:1])
    towers, _, batch = build(CarFt(weight=0.0), examples=single)
    assert single.head is not None
    loss = CarFtLoss(towers, CarFt(), single.head)
    with torch.no_grad():
        towers.model.visual.proj.mul_(torch.rand(towers.model.visual.proj.shape))
    labels = build(Labels(), examples=single)[1]
    wanted = labels.of_features(towers.embed_images(batch), batch)
    assert loss(batch).item() == pytest.approx(wanted.item(), rel=1e-6)


def test_it_agrees_with_float64() -> None:
    given = examples()
    towers, loss, batch = build(CarFt(weight=2.0), examples=given)
    assert given.head is not None
    with torch.no_grad():
        before = towers.embed_images(batch).double().numpy()
        towers.model.visual.proj.add_(0.05 * torch.randn(towers.model.visual.proj.shape))
        after = towers.embed_images(batch).double().numpy()
        scale = float(towers.scale)
    each = encoder().encode_text([text for group in given.head.texts for text in group]).double().numpy()
    contexts = each.reshape(3, len(TEMPLATES), -1).mean(0)
    contexts /= np.linalg.norm(contexts, axis=1, keepdims=True)

    def log_softmax(logits: np.ndarray) -> np.ndarray:
        shifted = logits - logits.max(1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))

    old, new = (log_softmax(scale * features @ contexts.T) for features in (before, after))
    classes = log_softmax(scale * after @ given.head.weights.double().numpy().T)
    assert batch.targets is not None
    wanted = -classes[np.arange(6), batch.targets.numpy()].mean()
    wanted += 2.0 * (np.exp(old) * (old - new)).sum(1).mean()
    assert loss(batch).item() == pytest.approx(wanted, rel=1e-4)


def test_the_start_is_remembered_where_images_are_not_augmented() -> None:
    towers, loss, batch = build(CarFt(), examples=examples(), least_area=1.0)
    loss(batch)
    assert not loss.kept.isnan().any()
    before = loss.kept.clone()
    with torch.no_grad():
        towers.model.visual.proj.mul_(0.5)
        loss.start.model.visual.proj.zero_()  # not asked again
    assert torch.isfinite(loss(batch))
    assert torch.equal(loss.kept, before)
    assert not len(build(CarFt(), examples=examples())[1].kept)


def test_contexts_change_less_than_with_labels_alone() -> None:
    def drift(objective: CarFt | Labels) -> float:
        manner = Manner(Lock(text=True), least_area=1.0)
        moved = adapt(encoder(), examples(), objective, manner=manner, schedule=replace(SCHEDULE, steps=10)).encoder
        contexts = build(CarFt(), examples=examples())[1].contexts
        shown = examples().pixels(torch.arange(6))
        before, after = (each.encode_pixels(shown).pooled @ contexts.T for each in (encoder(), moved))
        return float(divergence(encoder().scale * before, encoder().scale * after))

    assert drift(CarFt(weight=5.0)) < 0.5 * drift(Labels())


def test_prompts_without_contexts_are_refused() -> None:
    given = examples()
    assert given.head is not None
    uneven = replace(given, head=replace(given.head, texts=(("one", "two"), ("one",), ("one", "two"))))
    advice = 'give prompts of several templates alone, such as those of a recipe with [templates] set = "general"'
    with pytest.raises(ValueError, match=re.escape(f"but 'boat' has 2 texts and 'mill' has 1; {advice}")):
        adapt(encoder(), uneven, CarFt(), schedule=SCHEDULE)
    none = replace(given, head=replace(given.head, texts=()))
    with pytest.raises(ValueError, match="carft needs the texts of the classes, and there are none"):
        adapt(encoder(), none, CarFt(), schedule=SCHEDULE)
    with pytest.raises(ValueError, match=re.escape(f"of several contexts, and each class has one text; {advice}")):
        adapt(encoder(), examples(TEMPLATES[:1]), CarFt(), schedule=SCHEDULE)
    with pytest.raises(ValueError, match=r"the weight of the divergence is -1; give 0"):
        CarFt(weight=-1)

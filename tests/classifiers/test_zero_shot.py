import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from inputs.folders import FEATURES, needs_features
from rag_clip.classifiers.zero_shot import ZeroShot, encode_texts, text_coefficients, zero_shot, zero_shots
from rag_clip.data import Features, Fingerprint, LabelSet, Prompts, PromptText, Role
from rag_clip.progress import ProgressEvent
from rag_clip.prompts.templates import template_prompts
from rag_clip.testing import ToyEncoder, check_classifier


@dataclass(frozen=True)
class VectorEncoder(ToyEncoder):
    """Gives each text the vector of a table, or a random unit vector of its own, and counts what it encodes."""

    dim: int = 64
    scale: float = 10.0
    bias: float = -1.5
    trained_bias: bool = True
    table: dict[str, list[float]] = field(default_factory=dict)
    encoded: list[list[str]] = field(default_factory=list)

    @property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint("vectors", "", "w1", "none")

    def vector(self, text: str) -> np.ndarray:
        if text in self.table:
            return np.array(self.table[text])
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
        vector = np.random.default_rng(seed).standard_normal(self.dim)
        return vector / np.linalg.norm(vector)

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        self.encoded.append(list(texts))
        return torch.from_numpy(np.stack([self.vector(text) for text in texts])).float()


def equation(prompts: Prompts, encoder: VectorEncoder) -> np.ndarray:
    """The module's equation, a class at a time in float64."""
    rows = []
    for group in prompts.texts:
        anchors = [(text.weight, encoder.vector(text.text)) for text in group if text.role == "anchor"]
        context = sum((t.weight * encoder.vector(t.text) for t in group if t.role == "context"), np.zeros(encoder.dim))
        mass = sum(weight for weight, _ in anchors)
        mixed = [(weight / mass, mass * vector + context) for weight, vector in anchors] if mass else [(1.0, context)]
        row = sum(share * vector / np.linalg.norm(vector) for share, vector in mixed)
        rows.append(row / np.linalg.norm(row))
    return np.stack(rows)


def random_group(draw: np.random.Generator, anchors: int, contexts: int, share: float) -> tuple[PromptText, ...]:
    """Anchors that share 1 - `share`, contexts that share `share`, all of random weights; texts repeat."""
    roles: tuple[Role, ...] = ("anchor", "context")
    weights = [draw.random(count) + 0.1 for count in (anchors, contexts)]
    totals = (1 - share, share) if anchors and contexts else (1.0, 1.0)
    return tuple(
        PromptText(f"text {draw.integers(300)}", float(weight), role)
        for role, total, values in zip(roles, totals, weights, strict=True)
        for weight in (total * values / values.sum() if len(values) else ())
    )


def prompts_of(*groups: tuple[PromptText, ...], **provenance: Any) -> Prompts:
    return Prompts(LabelSet(tuple(f"class {index}" for index in range(len(groups)))), groups, provenance)


def test_two_templates_and_one_caption_give_the_weights_computed_by_hand():
    encoder = VectorEncoder(table={"t1": [1, 0], "t2": [0, 1], "r": [0.6, 0.8]}, dim=2)
    group = (PromptText("t1", 0.25), PromptText("t2", 0.25), PromptText("r", 0.5, "context"))
    # t1: (0.5 + 0.3, 0.4) / 0.894427 = (0.894427, 0.447214); t2: (0.3, 0.9) / 0.948683 = (0.316228, 0.948683)
    expected = torch.tensor([[0.605327, 0.697948]]) / torch.tensor([0.605327, 0.697948]).norm()
    weights = zero_shot(prompts_of(group), encoder).weights
    torch.testing.assert_close(weights, expected, atol=1e-6, rtol=0)


def test_weights_equal_the_equation_in_float64():
    draw = np.random.default_rng(7)
    shapes = [(1, 0), (1, 1), (7, 100), (80, 3), (0, 5), (3, 0), (0, 1), (1, 1000)]
    groups = [random_group(draw, *shape, share=draw.choice([0.25, 0.5, 0.9])) for shape in shapes * 20]
    encoder = VectorEncoder()
    prompts = prompts_of(*groups)
    weights = zero_shot(prompts, encoder).weights.double().numpy()
    np.testing.assert_allclose(weights, equation(prompts, encoder), atol=1e-6, rtol=0)


def test_the_paper_mixes_per_template_and_then_averages():
    draw = np.random.default_rng(1)
    encoder = VectorEncoder()
    templates, captions = [f"template {index}" for index in range(5)], [f"caption {index}" for index in range(40)]
    anchors = tuple(PromptText(text, 0.75 / 5) for text in templates)
    contexts = tuple(PromptText(text, 0.25 / 40, "context") for text in captions)
    mean = np.mean([encoder.vector(text) for text in captions], axis=0)
    mixed = [0.75 * encoder.vector(text) + 0.25 * mean for text in templates]
    prototype = np.mean([vector / np.linalg.norm(vector) for vector in mixed], axis=0)
    order = draw.permutation(45)
    shuffled = tuple((*anchors, *contexts)[row] for row in order)
    weights = zero_shot(prompts_of(shuffled), encoder).weights.double().numpy()
    np.testing.assert_allclose(weights[0], prototype / np.linalg.norm(prototype), atol=1e-6, rtol=0)


def test_context_without_weight_leaves_the_plain_ensemble():
    encoder = VectorEncoder()
    anchors = (PromptText("one", 0.5), PromptText("two", 0.5))
    plain = zero_shot(prompts_of(anchors), encoder)
    with_context = zero_shot(prompts_of((*anchors, PromptText("three", 0.0, "context"))), encoder)
    torch.testing.assert_close(with_context.weights, plain.weights, atol=0, rtol=0)


def test_contexts_of_negative_weight_are_subtracted():
    encoder = VectorEncoder()
    group = (
        PromptText("fox", 0.5),
        PromptText("red fox", 0.5),
        PromptText("orange fur", 0.25, "context"),
        PromptText("a day", -0.25, "context"),
    )
    prompts = Prompts(LabelSet(("fox",)), (group,))
    weights = zero_shot(prompts, encoder).weights
    torch.testing.assert_close(weights.double(), torch.from_numpy(equation(prompts, encoder)), atol=1e-6, rtol=0)
    vectors = encoder.encode_text([text.text for text in group]).double()
    torch.testing.assert_close(text_coefficients(group, vectors) @ vectors, weights[0].double(), atol=1e-6, rtol=0)


def test_anchors_without_weight_leave_the_context_alone():
    encoder = VectorEncoder()
    context = (PromptText("one", 0.5, "context"), PromptText("two", 0.5, "context"))
    alone = zero_shot(prompts_of(context), encoder)
    beside_anchor = zero_shot(prompts_of((PromptText("three", 0.0), *context)), encoder)
    torch.testing.assert_close(beside_anchor.weights, alone.weights, atol=0, rtol=0)


def test_equal_classes_get_exactly_equal_logits():
    group = (PromptText("one", 0.75), *(PromptText(f"caption {index}", 0.05, "context") for index in range(5)))
    encoder = VectorEncoder()
    classifier = zero_shot(prompts_of(group, (PromptText("two", 1.0),), group), encoder)
    logits = classifier(Features(encoder.encode_text(["an image", "another"])))
    assert torch.equal(logits[:, 0], logits[:, 2])


def test_logits_are_the_scaled_cosine_plus_bias():
    encoder = VectorEncoder(table={"t": [0.6, 0.8], "u": [1.0, 0.0]}, dim=2)
    classifier = zero_shot(prompts_of((PromptText("t", 1.0),), (PromptText("u", 1.0),)), encoder)
    logits = classifier(Features(torch.tensor([[1.0, 0.0], [0.0, 1.0]])))
    torch.testing.assert_close(logits, torch.tensor([[4.5, 8.5], [6.5, -1.5]]))


def test_each_distinct_text_is_encoded_once_in_one_call():
    encoder = VectorEncoder()
    shared = (PromptText("shared", 0.5), PromptText("caption", 0.5, "context"))
    zero_shot(prompts_of(shared, shared, (PromptText("own", 1.0),)), encoder)
    assert encoder.encoded == [["shared", "caption", "own"]]


def test_zero_shot_keeps_the_contract_of_a_classifier():
    draw = np.random.default_rng(3)
    encoder = VectorEncoder()
    prompts = prompts_of(
        *(random_group(draw, *shape, share=0.25) for shape in [(1, 4), (3, 0), (0, 9), (2, 30), (5, 1)])
    )
    features = Features(encoder.encode_text([f"image {index}" for index in range(8)]))
    check_classifier(lambda prompts: zero_shot(prompts, encoder), prompts, features)


def test_a_caption_that_names_the_colour_classifies_its_images():
    encoder = ToyEncoder()
    prompts = prompts_of(
        (PromptText("a zorp", 0.5), PromptText("zorp is red", 0.5, "context")),
        (PromptText("a blick", 0.5), PromptText("blick is blue", 0.5, "context")),
    )
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    pixels[0, 2] = pixels[1, 0] = 255
    assert zero_shot(prompts, encoder)(encoder.encode_pixels(pixels)).argmax(1).tolist() == [1, 0]


def test_prompts_of_another_encoder_are_refused_unless_allowed():
    encoder = ToyEncoder()
    other = asdict(Fingerprint("ViT-B-32", "openai", "0123456789abcdef", "224"))
    prompts = prompts_of((PromptText("red", 1.0),), encoder=other)
    with pytest.raises(
        ValueError, match=r"made with ViT-B-32 \(openai, weights 0123456789ab\), but the encoder is toy"
    ):
        zero_shot(prompts, encoder)
    allowed = zero_shot(prompts, encoder, allow_other_encoder=True)
    torch.testing.assert_close(allowed.weights, encoder.encode_text(["red"]))


def test_prompts_of_the_same_encoder_in_another_precision_are_accepted():
    encoder = ToyEncoder()
    same = {**asdict(encoder.fingerprint), "precision": "bf16"}
    classifier = zero_shot(prompts_of((PromptText("red", 1.0),), encoder=same), encoder)
    torch.testing.assert_close(classifier.weights, encoder.encode_text(["red"]))


def test_texts_that_cancel_out_are_refused_with_their_class():
    encoder = VectorEncoder(table={"up": [0, 1], "down": [0, -1]}, dim=2)
    fine = (PromptText("up", 1.0),)
    with pytest.raises(ValueError, match="the texts of class 'class 1' cancel out"):
        zero_shot(prompts_of(fine, (PromptText("up", 0.5), PromptText("down", 0.5))), encoder)


def test_the_classifier_follows_the_device_of_the_features():
    classifier = ZeroShot(LabelSet(("one",)), torch.ones(1, 4), 1.0)
    assert classifier(Features(torch.ones(2, 4, device="meta"))).device.type == "meta"


@needs_features
@pytest.mark.parametrize(("model", "expected"), [("ViTB32", 0.813), ("ViTL14", 0.855)])
def test_an_ensemble_of_106_templates_reaches_the_known_accuracy_on_real_features(model: str, expected: float):
    data = np.load(FEATURES / f"whurs19_CLIP_{model}.npz")
    names, text = tuple(data["classes"].tolist()), data["text"][:-1].astype(np.float32)
    templates = [f"{template} {{}}" for template in data["templates"][:-1].tolist()]
    filled = [template.replace("{}", name) for template in templates for name in names]
    encoder = VectorEncoder(table=dict(zip(filled, text.reshape(-1, text.shape[-1]).tolist(), strict=True)))
    classifier = zero_shot(template_prompts(LabelSet(names), templates=templates), encoder)
    predicted = classifier(Features(torch.from_numpy(data["image"].astype(np.float32)))).argmax(1).numpy()
    assert round(float((predicted == data["label"]).mean()), 3) == expected


def test_several_prompts_give_the_classifiers_of_each_and_share_the_encoding():
    labels = LabelSet(("cat", "dog"))
    variants = [template_prompts(labels, templates=templates) for templates in (["a {}"], ["a {}", "the {}"])]
    encoder = VectorEncoder()
    together = zero_shots(variants, encoder)
    assert [len(set(texts)) for texts in encoder.encoded] == [4]
    for classifier, prompts in zip(together, variants, strict=True):
        assert torch.equal(classifier.weights, zero_shot(prompts, VectorEncoder()).weights)


def test_coefficients_by_hand_of_two_templates_and_one_caption():
    group = (PromptText("t1", 0.25), PromptText("t2", 0.25), PromptText("r", 0.5, "context"))
    vectors = torch.tensor([[1, 0], [0, 1], [0.6, 0.8]])
    # lengths 0.894427 and 0.948683; sums 0.25 / n: 0.279508 and 0.263523; context 0.5 * 0.543032 / 0.5
    raw = torch.tensor([0.279508, 0.263523, 0.543032], dtype=torch.float64)
    expected = raw / torch.linalg.vector_norm(raw @ vectors.double())
    torch.testing.assert_close(text_coefficients(group, vectors), expected, atol=1e-6, rtol=0)


def test_coefficients_times_the_texts_are_the_class_weights():
    draw = np.random.default_rng(5)
    shapes = [(1, 0), (1, 1), (7, 100), (80, 3), (0, 5), (3, 0), (0, 1)]
    groups = [random_group(draw, *shape, share=draw.choice([0.25, 0.5, 0.9])) for shape in shapes * 3]
    groups += [(PromptText("none", 0.0), *groups[4]), (*groups[0], PromptText("none", 0.0, "context"))]
    encoder = VectorEncoder()
    prompts = prompts_of(*groups)
    texts = encode_texts([prompts], encoder)
    weights = torch.stack([text_coefficients(group, texts.of(group)) @ texts.of(group).double() for group in groups])
    np.testing.assert_allclose(weights.numpy(), equation(prompts, encoder), atol=1e-6, rtol=0)
    torch.testing.assert_close(weights.float(), zero_shot(prompts, encoder).weights, atol=1e-6, rtol=0)


def test_a_text_without_weight_has_no_coefficient():
    group = (PromptText("one", 1.0), PromptText("two", 0.0), PromptText("three", 0.0, "context"))
    vectors = encode_texts([prompts_of(group)], VectorEncoder()).of(group)
    assert text_coefficients(group, vectors).tolist()[1:] == [0.0, 0.0]


def test_the_encoding_of_the_texts_is_reported():
    events: list[ProgressEvent] = []
    prompts = template_prompts(LabelSet(("cat", "dog")), templates=["a {}", "the {}"])
    zero_shot(prompts, VectorEncoder(), report=events.append)
    assert events == [ProgressEvent("prompts", 4, 4, "texts")]


def test_cosines_averaged_are_the_weighted_mean_of_those_with_the_texts():
    draw = np.random.default_rng(3)
    encoder = VectorEncoder()
    groups = tuple(random_group(draw, anchors=3, contexts=5, share=0.6) for _ in range(4))
    prompts = Prompts(LabelSet(tuple("abcd")), groups, {"average": "cosines"})
    images = draw.standard_normal((6, 64))
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    cosines = np.stack([sum(t.weight * (images @ encoder.vector(t.text)) for t in group) for group in groups], axis=1)
    logits = zero_shot(prompts, encoder)(Features(torch.from_numpy(images)))
    np.testing.assert_allclose(logits.numpy(), encoder.scale * cosines + encoder.bias, atol=1e-5)
    assert not np.allclose(equation(prompts, encoder) @ images.T, cosines.T, atol=1e-2)


def test_an_average_that_does_not_exist_is_refused():
    prompts = replace(template_prompts(LabelSet(("a", "b"))), provenance={"average": "medians"})
    with pytest.raises(ValueError, match="has the average 'medians'; write vectors or cosines"):
        zero_shot(prompts, VectorEncoder())


def test_an_encoder_that_says_nothing_of_its_bias_has_no_trained_one() -> None:
    class Plain:
        def __getattr__(self, name: str) -> Any:
            if name == "trained_bias":
                raise AttributeError(name)
            return getattr(VectorEncoder(), name)

    prompts = template_prompts(LabelSet(("cat", "dog"), templates=("a {}",)))
    assert (zero_shot(prompts, Plain()).trained_bias, zero_shot(prompts, VectorEncoder()).trained_bias) == (False, True)

"""Explanations: shares and contributions that add up, the winner of match, and competitors before and after."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rag_clip.classifiers.explain import ClassEffect, anchors_alone, explain_image, explain_label, find_label
from rag_clip.classifiers.match import match
from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.report.explanation import explanation_html
from rag_clip.testing import ToyEncoder

ENCODER = ToyEncoder(bias=-3.0)


def colour(name: str) -> Image.Image:
    return Image.new("RGB", (8, 8), name)


def text(words: str, weight: float, role: str = "anchor", **facts: Any) -> PromptText:
    return PromptText(words, weight, role, **facts)  # type: ignore[arg-type]


PROMPTS = Prompts(
    LabelSet(("zorp", "blick", "gnarf"), synonyms=(("zorp flag",), (), ())),
    (
        (
            text("a photo of a zorp", 0.3),
            text("one zorp", 0.2),
            text("zorp is red", 0.4, "context", source="web", evidence="7", score=0.9, rank=0),
            text("a zorp at home", 0.1, "context", source="wiki", evidence="9", score=0.7, rank=1),
        ),
        (text("a photo of a blick", 0.5), text("blick is blue", 0.5, "context", evidence="3", rank=0)),
        (text("a photo of a gnarf", 1.0),),
    ),
)


def logits(image: Image.Image, prompts: Prompts = PROMPTS) -> list[float]:
    return zero_shot(prompts, ENCODER)(ENCODER.encode_images([image]))[0].tolist()


def total(effect: ClassEffect, name: str) -> float:
    return sum(getattr(text, name) for text in effect.texts)


@pytest.mark.parametrize("name", ["red", "blue", "green", "purple", "white"])
def test_contributions_add_up_to_the_logits_and_their_gap(name: str):
    found = explain_image(colour(name), PROMPTS, ENCODER)
    expected = logits(colour(name))
    order = np.argsort(expected)[::-1]
    assert [found.winner.label, found.rival.label] == [PROMPTS.labels.names[row] for row in order[:2]]
    assert (found.winner.logit, found.rival.logit) == pytest.approx(tuple(np.array(expected)[order[:2]]), abs=1e-5)
    for effect in (found.winner, found.rival):
        assert found.bias + total(effect, "contribution") == pytest.approx(effect.logit, abs=1e-9)
    gap = total(found.winner, "contribution") - total(found.rival, "contribution")
    assert found.gap == pytest.approx(gap, abs=1e-9)
    assert found.gap == pytest.approx(total(found.winner, "lift") - total(found.rival, "lift"), abs=1e-9)


def test_contributions_and_shares_add_up_where_cosines_are_averaged():
    prompts = replace(PROMPTS, provenance={"average": "cosines"})
    found = explain_image(colour("red"), prompts, ENCODER)
    expected = sorted(logits(colour("red"), prompts))
    assert (found.winner.logit, found.rival.logit) == pytest.approx((expected[2], expected[1]), abs=1e-5)
    assert found.gap == pytest.approx(total(found.winner, "lift") - total(found.rival, "lift"), abs=1e-9)
    label = explain_label("zorp", prompts, ENCODER)
    assert sum(text.share for text in label.texts) == pytest.approx(1)
    assert all(-1 <= other.after < 1 for other in label.competitors)


def test_contributions_add_up_for_many_random_texts_in_float64():
    draw = np.random.default_rng(0)
    groups = []
    for _ in range(20):
        weights = draw.random(60)
        weights /= weights.sum()
        words = [" ".join(draw.choice(["red", "green", "blue", "flag", "sea", "old"], 4)) for _ in weights]
        groups.append(
            tuple(
                text(line, float(w), "anchor" if n % 3 else "context", evidence=str(n))
                for n, (line, w) in enumerate(zip(words, weights, strict=True))
            )
        )
    prompts = Prompts(LabelSet(tuple(f"class {row}" for row in range(20))), tuple(groups))
    found = explain_image(colour("orange"), prompts, ENCODER)
    rows = [prompts.labels.names.index(effect.label) for effect in (found.winner, found.rival)]
    image = ENCODER.encode_images([colour("orange")]).pooled[0].double()
    expected = [ENCODER.bias + ENCODER.scale * float(composed(groups[row]) @ image) for row in rows]
    assert [found.winner.logit, found.rival.logit] == pytest.approx(expected, abs=1e-6)
    assert total(found.winner, "lift") - total(found.rival, "lift") == pytest.approx(
        expected[0] - expected[1], abs=1e-6
    )


def composed(group: tuple[PromptText, ...]) -> torch.Tensor:
    """The class weight from the equation of classifiers.zero_shot, in float64."""
    vectors = ENCODER.encode_text([part.text for part in group]).double()
    context = sum(part.weight * vector for part, vector in zip(group, vectors, strict=True) if part.role == "context")
    anchors = [(part.weight, vector) for part, vector in zip(group, vectors, strict=True) if part.role == "anchor"]
    mass = sum(weight for weight, _ in anchors)
    mixed = [
        weight / mass * torch.nn.functional.normalize(mass * vector + context, dim=0) for weight, vector in anchors
    ]
    return torch.nn.functional.normalize(torch.stack(mixed).sum(0), dim=0)


def test_the_text_that_names_the_colour_lifts_its_class_most():
    found = explain_image(colour("red"), PROMPTS, ENCODER)
    assert found.winner.label == "zorp"
    first = found.winner.texts[0]
    assert (first.prompt.text, first.prompt.source, first.prompt.evidence) == ("zorp is red", "web", "7")
    assert first.lift > 0
    assert [abs(effect.lift) for effect in found.winner.texts] == sorted(
        (abs(effect.lift) for effect in found.winner.texts), reverse=True
    )


def test_probabilities_are_those_of_match():
    found = explain_image(colour("purple"), PROMPTS, ENCODER)
    scores = match(zero_shot(PROMPTS, ENCODER), ENCODER.encode_images([colour("purple")]), top_k=2).scores[0]
    assert (found.winner.probability, found.rival.probability) == pytest.approx(tuple(scores.tolist()))


def test_an_image_is_compared_with_the_class_asked_for():
    found = explain_image(colour("red"), PROMPTS, ENCODER, against="gnarf")
    assert (found.winner.label, found.rival.label) == ("zorp", "gnarf")
    assert found.gap == pytest.approx(logits(colour("red"))[0] - logits(colour("red"))[2], abs=1e-5)


def test_against_the_winner_an_image_is_compared_with_the_second():
    assert explain_image(colour("red"), PROMPTS, ENCODER, against="zorp") == explain_image(
        colour("red"), PROMPTS, ENCODER
    )


def test_classes_with_equal_texts_have_no_gap():
    twins = Prompts(LabelSet(("one", "two")), (PROMPTS.texts[0], PROMPTS.texts[0]))
    found = explain_image(colour("red"), twins, ENCODER)
    assert ({found.winner.label, found.rival.label}, found.gap) == ({"one", "two"}, 0.0)
    assert found.winner.texts == found.rival.texts


def test_encoded_bytes_are_decoded():
    buffer = io.BytesIO()
    colour("red").save(buffer, format="PNG")
    assert explain_image(buffer.getvalue(), PROMPTS, ENCODER) == explain_image(colour("red"), PROMPTS, ENCODER)


def test_what_cannot_be_decoded_or_decided_is_refused():
    with pytest.raises(ValueError, match="not an image of a known format"):
        explain_image(b"nothing", PROMPTS, ENCODER)
    alone = Prompts(LabelSet(("zorp",)), PROMPTS.texts[:1])
    with pytest.raises(ValueError, match="'zorp' is the only class"):
        explain_image(colour("red"), alone, ENCODER)


def test_shares_of_a_class_sum_to_one_and_the_evidence_stays():
    found = explain_label("zorp", PROMPTS, ENCODER)
    assert sum(text.share for text in found.texts) == pytest.approx(1, abs=1e-9)
    assert {text.prompt for text in found.texts} == set(PROMPTS.texts[0])
    assert [text.share for text in found.texts] == sorted((text.share for text in found.texts), reverse=True)


def test_competitors_are_those_of_the_anchors_alone_and_of_all_texts():
    found = explain_label("zorp", PROMPTS, ENCODER)
    weights = [zero_shot(prompts, ENCODER).weights.double() for prompts in (anchors_alone(PROMPTS), PROMPTS)]
    cosines = {name: [float(rows[row] @ rows[0]) for rows in weights] for row, name in ((1, "blick"), (2, "gnarf"))}
    assert {other.label: [other.before, other.after] for other in found.competitors} == {
        name: pytest.approx(values) for name, values in cosines.items()
    }
    after = sorted((pair[1] for pair in cosines.values()), reverse=True)
    assert [other.after for other in found.competitors] == pytest.approx(after)
    kept = [np.exp(20.0) / (np.exp(20.0) + sum(np.exp(20 * c[side]) for c in cosines.values())) for side in (0, 1)]
    assert (found.confusion_before, found.confusion_after) == pytest.approx((1 - kept[0], 1 - kept[1]), rel=1e-3)


def test_the_nearest_before_and_the_nearest_after_are_both_named():
    before = Prompts(PROMPTS.labels, ((text("red sea", 1.0),), (text("red flag", 1.0),), (text("old ship", 1.0),)))
    after = replace(before, texts=((text("old sea", 1.0),), *before.texts[1:]))
    found = explain_label("zorp", after, ENCODER, before=before, count=1)
    assert [other.label for other in found.competitors] == ["gnarf", "blick"]


def test_without_context_nothing_changes():
    found = explain_label("gnarf", anchors_alone(PROMPTS), ENCODER)
    assert found.confusion_before == found.confusion_after
    assert [other.before for other in found.competitors] == [other.after for other in found.competitors]
    assert [(part.prompt.text, part.share) for part in found.texts] == [("a photo of a gnarf", pytest.approx(1.0))]


def test_anchors_alone_share_the_weight_and_a_class_without_them_keeps_its_texts():
    bare = (text("only evidence", 1.0, "context", evidence="1"), text("nothing", 0.0))
    found = anchors_alone(Prompts(LabelSet(("zorp", "bare")), (PROMPTS.texts[0], bare)))
    assert found.texts == ((text("a photo of a zorp", 0.6), text("one zorp", 0.4)), bare)


def test_a_label_is_found_by_spelling_and_synonym():
    labels = LabelSet(("black_swan", "owl"), synonyms=((), ("night bird",)))
    assert [find_label(name, labels) for name in ("black_swan", "Black Swan", "Night-Bird")] == [0, 0, 1]


def test_an_unknown_label_lists_close_names():
    with pytest.raises(ValueError, match="no class is called 'zarp' among 3; close names: 'zorp'"):
        explain_label("zarp", PROMPTS, ENCODER)
    with pytest.raises(ValueError, match="close names: none"):
        explain_image(colour("red"), PROMPTS, ENCODER, against="xylophone")


def test_prompts_of_other_classes_are_not_compared():
    other = Prompts(LabelSet(("zorp",)), PROMPTS.texts[:1])
    with pytest.raises(ValueError, match="have other classes"):
        explain_label("zorp", PROMPTS, ENCODER, before=other)


def test_what_images_chose_is_said_of_each_class():
    facts = {
        "images": 300, "best": "names", "scores": {}, "classes": {},
        "changed": {"blick": {"texts": "captions", "gain": 12.34}},
    }  # fmt: skip
    chosen = replace(PROMPTS, provenance={"chosen": facts})
    assert explain_label("zorp", chosen, ENCODER).chosen == "300 images chose the texts of 'names'"
    assert explain_label("blick", chosen, ENCODER).chosen == "300 images chose the texts of 'captions', by 12.3 nats"
    assert explain_label("blick", PROMPTS, ENCODER).chosen == ""
    image = explain_image(colour("blue"), chosen, ENCODER, against="zorp")
    assert image.winner.chosen == "300 images chose the texts of 'captions', by 12.3 nats"
    assert image.rival.chosen == "300 images chose the texts of 'names'"
    assert "chose the texts of &#39;captions&#39;" in explanation_html(image=image).replace("&amp;", "&")

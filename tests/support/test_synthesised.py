from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from rag_clip.classifiers.zero_shot import ZeroShot, zero_shot
from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.prompts.templates import template_prompts
from rag_clip.support.synthesised import Painting, is_black, plan_paintings, synthesised_support
from rag_clip.testing import ToyEncoder, check_support, permute_prompts

LABELS = LabelSet(("red", "green", "blue"), templates=("{}",))
PROMPTS = Prompts(
    LabelSet(("red", "green")),
    (
        (
            PromptText("a photo of red", 0.3),
            PromptText("red", 0.3),
            PromptText("a dull red", 0.1, "context", evidence="1"),
            PromptText("a red kite", 0.3, "context", evidence="2"),
        ),
        (PromptText("a photo of green", 0.5), PromptText("green", 0.5)),
    ),
)


def texts(plan: list[Painting], row: int) -> list[str]:
    return [painting.text for painting in plan if painting.row == row]


def test_templates_take_turns_for_the_same_number_of_images_per_class():
    plan = plan_paintings(PROMPTS, per_class=3)
    assert texts(plan, 0) == ["a photo of red", "red", "a photo of red"]
    assert texts(plan, 1) == ["a photo of green", "green", "a photo of green"]


def test_sentences_come_by_weight_and_templates_where_a_class_has_none():
    plan = plan_paintings(PROMPTS, per_class=3, wording="sentences")
    assert texts(plan, 0) == ["a red kite", "a dull red", "a red kite"]
    assert texts(plan, 1) == ["a photo of green", "green", "a photo of green"]


def test_every_image_has_a_seed_of_its_own_that_no_other_class_and_no_larger_number_changes():
    plan = plan_paintings(PROMPTS, per_class=2)
    assert len({painting.seed for painting in plan}) == 4
    more = plan_paintings(permute_prompts(PROMPTS, [1, 0]), per_class=3)
    moved = [Painting(1 - painting.row, painting.text, painting.seed) for painting in more]
    assert moved[3:5] + moved[:2] == plan
    assert not {painting.seed for painting in plan} & {p.seed for p in plan_paintings(PROMPTS, per_class=2, seed=1)}


def test_black_is_what_a_codec_makes_of_black():
    image = Image.new("RGB", (4, 4), (8, 3, 0))
    assert is_black(image)
    image.putpixel((2, 1), (0, 9, 0))
    assert not is_black(image)


def test_the_images_nearest_to_their_class_stay_in_that_order():
    classifier = ZeroShot(LabelSet(("x", "y")), torch.eye(2), scale=10.0)
    features = normalize(torch.tensor([[1.0, 2.0], [1.0, 0.5], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), dim=1)
    made = synthesised_support(
        classifier, features, np.array([0, 0, 0, 1, 1]), ("a", "b", "c", "d", "e"), keep=2, provenance={"seed": 3}
    )
    assert made.support.references == ("c", "b", "d", "e")
    assert made.support.targets.tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert torch.equal(made.support.features, features[[2, 1, 3, 4]])
    assert made.support.provenance == {"seed": 3}
    # The tie of "e" goes to the first class.
    assert made.agreement == {"x": 2 / 3, "y": 1 / 2}


def test_the_contract_of_support_holds_where_a_class_has_no_image():
    encoder = ToyEncoder()
    images = [Image.new("RGB", (8, 8), name) for name in ("red", "blue", "red")]
    features = encoder.encode_images(images).pooled
    classifier = zero_shot(template_prompts(LABELS), encoder)
    made = synthesised_support(classifier, features, np.array([0, 2, 0]), ("a", "b", "c"), keep=5)
    check_support(made.support, LABELS)
    assert made.support.missing == ("green",)
    assert made.support.origin == ("synthesised",) * 3
    assert made.agreement == {"red": 1.0, "blue": 1.0}


def test_bad_numbers_and_no_image_are_refused_with_what_to_do():
    classifier = ZeroShot(LABELS, torch.eye(3), scale=1.0)
    with pytest.raises(ValueError, match="0 images per class cannot be painted; paint at least 1"):
        plan_paintings(PROMPTS, per_class=0)
    with pytest.raises(ValueError, match="unknown wording 'poems'; known are templates, sentences"):
        plan_paintings(PROMPTS, per_class=1, wording="poems")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0 images per class cannot be kept; keep at least 1"):
        synthesised_support(classifier, torch.eye(3), np.arange(3), ("a", "b", "c"), keep=0)
    with pytest.raises(ValueError, match="no image was painted that can be used; try other texts"):
        synthesised_support(classifier, torch.zeros(0, 3), np.array([], dtype=np.int64), ())

from dataclasses import replace
from typing import Any

import pytest
import torch

from rag_clip.data import (
    Features,
    Fingerprint,
    LabelSet,
    Prompts,
    PromptText,
    Provenance,
    Support,
    Validation,
    check_same_encoder,
    read_fingerprint,
    read_provenance,
)

ENCODER = Fingerprint("ViT-B-32", "openai", "weights", "224 px", "fp32")


@pytest.mark.parametrize(
    ("change", "agrees"),
    [
        ({}, True),
        ({"precision": "fp16"}, True),
        ({"pretrained": "a copy of the same file"}, True),
        ({"model": "ViT-B-16"}, False),
        ({"weights": "other"}, False),
        ({"preprocessing": "336 px"}, False),
        ({"activation": "QuickGELU"}, True),  # ENCODER is of before it was recorded
    ],
)
def test_encoders_agree_when_model_weights_and_preprocessing_do(change: dict[str, str], agrees: bool):
    other = replace(ENCODER, **change)
    assert (ENCODER.agrees_with(other), other.agrees_with(ENCODER)) == (agrees, agrees)
    assert (other.key == ENCODER.key) == (not change)


def test_encoders_of_other_activations_do_not_agree():
    gelu, quick = (replace(ENCODER, activation=name) for name in ("GELU", "QuickGELU"))
    assert not gelu.agrees_with(quick)
    assert gelu.key != quick.key


def test_a_foreign_encoder_is_refused_in_one_sentence():
    check_same_encoder(ENCODER, replace(ENCODER, precision="bf16"), what="it was made", advice="make it again")
    other = replace(ENCODER, model="ViT-L-14", weights="f" * 64)
    with pytest.raises(ValueError, match="the index at i was built") as caught:
        check_same_encoder(ENCODER, other, what="the index at i was built", advice="build another index")
    assert str(caught.value) == (
        "the index at i was built with ViT-B-32 (openai, weights weights), but the encoder is "
        "ViT-L-14 (openai, weights ffffffffffff); build another index"
    )


def test_features_of_another_resampler_are_stored_apart_but_can_be_compared():
    torch_made, pillow_made = replace(ENCODER, resampler="torch"), replace(ENCODER, resampler="pillow")
    assert len({ENCODER.key, torch_made.key, pillow_made.key}) == 3
    assert torch_made.agrees_with(ENCODER)
    assert ENCODER.agrees_with(torch_made)
    assert torch_made.agrees_with(pillow_made)
    assert "resampler" not in ENCODER.identity, "the key of older files stays"


def test_a_fingerprint_of_before_the_activation_was_recorded_is_read():
    recorded = {"model": "ViT-B-32", "pretrained": "openai", "weights": "weights", "preprocessing": "224 px"}
    assert read_fingerprint(recorded) == ENCODER
    assert read_fingerprint({**recorded, "spec": "ViT-B-32:openai"}).spec == "ViT-B-32:openai"
    with pytest.raises(ValueError, match="its encoder is recorded as"):
        read_fingerprint({"model": "ViT-B-32"})


def test_provenance_is_read_by_name_and_other_keys_are_passed_over():
    document = {"method": "default", "settings": {"weight": 0.6}, "notes": ["a note"], "encoder": None, "ours": 1}
    facts = Provenance(method="default", settings={"weight": 0.6}, notes=("a note",))
    assert read_provenance(document) == facts
    prompts = Prompts(LabelSet(("fox",)), ((PromptText("a fox.", 1.0),),), document)
    assert prompts.recorded == facts
    assert prompts.provenance == document
    assert read_provenance({}) == Provenance({}, "unknown", {}, "", "vectors", 0, 0, (), {}, {})


def test_how_an_encoder_was_named_decides_nothing():
    named = replace(ENCODER, spec="ViT-B-32:openai")
    assert (named, named.key, named.identity) == (ENCODER, ENCODER.key, ENCODER.identity)
    assert ENCODER.key == "6f82e45f7e20c862"


LABELS = LabelSet(("zorp", "blick"))


def support(**change: Any) -> Support:
    columns = {
        "labels": LABELS,
        "features": torch.eye(3),
        "targets": torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]),
        "relevance": torch.tensor([1.0, 0.5, 0.0]),
        "origin": ("shot",) * 3,
        "references": ("a", "b", "c"),
    }
    return Support(**{**columns, **change})


def test_a_support_set_lists_the_classes_without_an_image():
    assert support().missing == ("blick",)
    assert support(targets=torch.full((3, 2), 0.5)).missing == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(0, 3)}, "no image"),
        ({"references": ("a",)}, "3 features, but 1 row of references"),
        ({"targets": torch.ones(3, 3)}, r"targets are \(3, 3\); expected \[m, c\] = \(3, 2\)"),
        ({"targets": torch.ones(3, 2)}, "does not sum to one"),
        ({"features": torch.full((3, 3), torch.nan)}, "features that are not finite"),
        ({"relevance": torch.tensor([1.0, 2.0, 0.0])}, r"outside \[0, 1\]"),
        ({"others": {"second": torch.eye(2)}}, "3 features, but 2 rows of second"),
    ],
)
def test_a_support_set_that_does_not_hold_together_is_refused(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        support(**change)


@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [(2, [0], "1 target for 2 validation images"), (0, [], "at least one image"), (1, [2], "none of the 2 classes")],
)
def test_validation_images_that_do_not_match_their_labels_are_refused(images: int, targets: list[int], message: str):
    with pytest.raises(ValueError, match=message):
        Validation(Features(torch.ones(images, 3)), LABELS, torch.tensor(targets, dtype=torch.int64))

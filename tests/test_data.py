from dataclasses import replace

import pytest

from rag_clip.data import Fingerprint

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
    ],
)
def test_encoders_agree_when_model_weights_and_preprocessing_do(change: dict[str, str], agrees: bool):
    other = replace(ENCODER, **change)
    assert (ENCODER.agrees_with(other), other.agrees_with(ENCODER)) == (agrees, agrees)
    assert (other.key == ENCODER.key) == (not change)

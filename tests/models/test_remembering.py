from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from rag_clip.models.remembering import RememberedTexts, remembering
from rag_clip.testing import ToyEncoder


@dataclass(frozen=True, slots=True)
class Counting(ToyEncoder):
    """Notes the texts of each call; as an encoder may, it refuses an empty list."""

    asked: list[list[str]] = field(default_factory=list)

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        assert texts
        self.asked.append(list(texts))
        return ToyEncoder.encode_text(self, texts)


def test_each_text_is_encoded_once_and_rows_follow_the_texts() -> None:
    counting = Counting()
    encoder, _ = remembering(counting)
    assert torch.equal(encoder.encode_text(["red", "blue"]), ToyEncoder().encode_text(["red", "blue"]))
    mixed = ["blue", "green", "red", "green"]
    assert torch.equal(encoder.encode_text(mixed), ToyEncoder().encode_text(mixed))
    assert torch.equal(encoder.encode_text(["red"]), ToyEncoder().encode_text(["red"]))
    assert encoder.encode_text([]).shape == (0, 32)
    assert counting.asked == [["red", "blue"], ["green"]]


def test_it_is_the_encoder_in_all_else() -> None:
    encoder, _ = remembering(ToyEncoder(scale=7.0, trained_bias=True))
    assert (encoder.fingerprint, encoder.scale, encoder.device.type) == (ToyEncoder().fingerprint, 7.0, "cpu")
    assert getattr(encoder, "trained_bias") is True  # noqa: B009


def test_a_job_within_a_job_shares_what_is_remembered() -> None:
    encoder, memory = remembering(ToyEncoder())
    assert remembering(encoder) == (encoder, memory)


def test_what_is_beyond_the_limit_is_encoded_again() -> None:
    counting = Counting()
    memory = RememberedTexts(counting, most_bytes=2 * 4 * counting.dim)
    for _ in range(2):
        assert torch.equal(memory.encode(["red", "blue", "green"]), ToyEncoder().encode_text(["red", "blue", "green"]))
    assert counting.asked == [["red", "blue", "green"], ["green"]]
    held = memory.encoded(["green", "blue"])
    assert held is not None
    assert held.texts == ("blue",)
    assert memory.encoded(["green"]) is None

import pytest
import torch

from rag_clip.classifiers.contexts import Context, prompt_tokens, start_vectors
from rag_clip.models.open_clip import load_encoder


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("demo", device="cpu", precision="fp32")


def shown(encoder, row: torch.Tensor) -> list[str]:
    """Tokens as words, learned ones as v0, v1, ..., without padding."""
    words = [encoder.tokenizer.decoder[token] if token > 0 else f"v{-1 - token}" for token in row.tolist() if token]
    return [word.removesuffix("</w>") for word in words]


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("end", "<start_of_text> v0 v1 v2 red flag . <end_of_text>"),
        ("middle", "<start_of_text> v0 red flag v1 v2 . <end_of_text>"),
        ("front", "<start_of_text> red flag v0 v1 v2 . <end_of_text>"),
    ],
)
def test_the_name_stands_where_the_position_says(encoder, position, expected):
    tokens = prompt_tokens(encoder, ["red_flag"], length=3, position=position)
    assert tokens.shape == (1, 28)
    assert " ".join(shown(encoder, tokens[0])) == expected


def test_classes_have_rows_of_their_own_only_if_asked(encoder):
    shared = prompt_tokens(encoder, ["flag", "a red flag"], length=2, position="front")
    apart = prompt_tokens(encoder, ["flag", "a red flag"], length=2, position="front", per_class=True)
    assert [shared[shared < 0].tolist(), apart[apart < 0].tolist()] == [[-1, -2, -1, -2], [-1, -2, -3, -4]]


def test_a_name_that_leaves_no_room_is_refused(encoder):
    assert prompt_tokens(encoder, ["red"], length=24, position="end").shape == (1, 28)
    with pytest.raises(ValueError, match="class 'red flag' leaves no room for 24 learned vectors among the 28 tokens"):
        prompt_tokens(encoder, ["red", "red flag"], length=24, position="end")
    with pytest.raises(ValueError, match="class 'red' leaves no room for 28 learned vectors"):
        prompt_tokens(encoder, ["red"], length=28, position="end")


def test_a_drawn_start_follows_from_seed_and_name_and_has_the_published_spread(encoder):
    context = Context(16, per_class=True)
    first = start_vectors(encoder, context, ["flag", "sign", "signal"], seed=1)
    assert torch.equal(start_vectors(encoder, context, ["signal", "flag"], seed=1), first[[2, 0]])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(start_vectors(encoder, context, ["flag"], seed=2)[0], first[0])
    assert first.std().item() == pytest.approx(0.02, rel=0.05)
    assert start_vectors(encoder, Context(5), ["flag", "sign"], seed=1).shape == (5, 128)


def test_words_give_the_start_and_its_length(encoder):
    words = encoder.token_vectors(encoder.tokenizer(["a photo of a"])[0, 1:5])
    assert torch.equal(start_vectors(encoder, Context(words="a photo of a"), ["flag"], seed=1), words)
    apart = start_vectors(encoder, Context(words="a photo of a", per_class=True), ["flag", "sign"], seed=1)
    assert torch.equal(apart, torch.stack([words, words]))


def test_a_context_without_length_is_refused():
    with pytest.raises(ValueError, match="a context of 0 vectors cannot be learned"):
        Context(0)

"""Learned vectors in the place of tokens, in small text towers of open_clip with random weights."""

import pytest
import torch

from inputs.open_clip_models import MODELS, load_towers, write_model
from rag_clip.models.text_tower import token_table

TEXTS = ["a photo of a kite", "two red boats on the sea"]


@pytest.mark.parametrize("kind", ["clip", "custom text", "end token by id", "not causal", "coca"])
def test_a_learned_vector_equal_to_a_tokens_own_embeds_the_same_text(tmp_path, kind):
    encoder = load_towers(write_model(tmp_path, MODELS[kind]))
    tokens = encoder.tokenizer(TEXTS)
    vectors = encoder.token_vectors(tokens[:, 2:4]).flatten(0, 1).requires_grad_()
    tokens[:, 2:4] = torch.tensor([[-1, -2], [-3, -4]])
    rows = encoder.encode_tokens(tokens, vectors)
    torch.testing.assert_close(rows.detach(), encoder.encode_text(TEXTS), rtol=0, atol=1e-6)
    torch.autograd.backward(rows[0, 0])
    assert vectors.grad is not None
    assert vectors.grad[:2].abs().amin(1).min() > 0
    assert torch.equal(vectors.grad[2:], torch.zeros(2, 32))  # the other text's
    assert all(weight.grad is None for weight in encoder.model.parameters())


def test_gradients_at_the_true_length_are_those_of_the_whole_context(tmp_path):
    encoder = load_towers(write_model(tmp_path, MODELS["clip"]))
    tokens, model = encoder.tokenizer(TEXTS), encoder.model
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.randn(2, 16, generator=torch.Generator().manual_seed(1))
    x = model.token_embedding(tokens)
    x = torch.cat([x[:, :1], vectors.expand(2, -1, -1), x[:, 3:]], dim=1) + model.positional_embedding
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))
    whole = torch.nn.functional.normalize(x[torch.arange(2), tokens.argmax(1)] @ model.text_projection, dim=-1)
    expected = torch.autograd.grad((whole * target).sum(), vectors)[0]
    tokens[:, 1:3] = torch.tensor([-1, -2])
    found = torch.autograd.grad((encoder.encode_tokens(tokens, vectors) * target).sum(), vectors)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_tower_is_as_before_also_after_an_error(tmp_path):
    encoder = load_towers(write_model(tmp_path, MODELS["clip"]))
    before, table = encoder.encode_text(TEXTS), token_table(encoder.model)
    tokens = encoder.tokenizer(TEXTS)
    tokens[:, 1] = -9
    with pytest.raises(IndexError):
        encoder.encode_tokens(tokens, torch.zeros(2, 32))
    assert token_table(encoder.model) is table
    assert torch.equal(encoder.encode_text(TEXTS), before)


@pytest.mark.parametrize("half", ["bf16", "fp16"])
def test_a_tower_of_half_precision_gives_float32_gradients_near_those_in_fp32(tmp_path, half):
    spec, gradients = write_model(tmp_path, MODELS["clip"]), list[torch.Tensor]()
    for precision in ("fp32", half):
        encoder = load_towers(spec, precision=precision)
        tokens = encoder.tokenizer(TEXTS)
        tokens[:, 1] = -1
        vectors = torch.ones(1, 32).requires_grad_()
        gradients.append(torch.autograd.grad(encoder.encode_tokens(tokens, vectors)[:, 0].sum(), vectors)[0])
    assert gradients[1].dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(gradients[0], gradients[1]).item() > 0.98

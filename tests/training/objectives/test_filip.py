"""FILIP's late interaction and Wukong's reducer: numbers by hand, limits, and what is exported."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from inputs.objectives import build, check_objective, encoder, pairs
from rag_clip.models import token_match as module
from rag_clip.models.token_match import Reducer, TokenMatch, late_similarities, text_part, token_match_of
from rag_clip.training.adapt import FINE_TUNING, adapt
from rag_clip.training.contrast import info_nce
from rag_clip.training.objectives.filip import Filip, late_loss


def rows(*values: list[list[float]]) -> torch.Tensor:
    return normalize(torch.tensor(values, dtype=torch.float64), dim=-1)


V = rows([[1, 0], [0, 1], [-1, -1]], [[1, 0.5], [-1, 0], [0, -1]])
Y = rows([[1, 1], [0, 1]], [[1, 0], [0.3, -1]])  # the last is padding
REAL = torch.tensor([[True, True], [True, False]])


@pytest.mark.parametrize("objective", [Filip(), Filip(reduced=5, groups=4), Filip(width=16)])
def test_filip_keeps_the_contract_of_objectives(objective: Filip) -> None:
    check_objective(objective)


def test_two_pairs_have_their_numbers_by_hand() -> None:
    of_images, of_texts = late_similarities(V, Y, REAL)
    images = torch.tensor([[0.333333, 0.097631], [0.080526, -0.035191]], dtype=torch.float64)
    assert torch.allclose(of_images, images, atol=1e-6)
    texts = torch.tensor([[0.853553, 0.697948], [1, 0.894427]], dtype=torch.float64)
    assert torch.allclose(of_texts, texts, atol=1e-6)
    assert float(late_loss(10 * of_images, 10 * of_texts)) == pytest.approx(0.766683, abs=1e-6)


def test_padding_is_in_no_maximum() -> None:
    alone = late_similarities(V, Y[1:, :1], REAL[1:, :1])
    padded = late_similarities(V, Y[1:], REAL[1:])
    assert torch.equal(alone[0], padded[0])
    assert torch.equal(alone[1], padded[1])
    zero = torch.cat([Y[:1], torch.zeros(1, 1, 2, dtype=torch.float64)], dim=1)
    whole = late_similarities(V[:1], zero, torch.ones(1, 3, dtype=torch.bool))[0]
    assert whole.item() == pytest.approx(0.569036, abs=1e-6)  # what Wukong's zero vectors make of 0.333333


def test_one_token_a_side_is_clip() -> None:
    images, texts = (normalize(torch.randn(4, 6, dtype=torch.float64), dim=-1) for _ in range(2))
    of_images, of_texts = late_similarities(images[:, None], texts[:, None], torch.ones(4, 1, dtype=torch.bool))
    wanted = info_nce(20 * images @ texts.T)
    assert late_loss(20 * of_images, 20 * of_texts).item() == pytest.approx(wanted.item(), rel=1e-12)


def test_blocks_of_texts_give_the_same_values_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    patches = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    words = torch.randn(5, 7, 6, dtype=torch.float64)
    real = torch.arange(7) < torch.tensor([7, 3, 1, 5, 2])[:, None]
    whole = late_similarities(patches, words, real)
    (whole[0].square().sum() + whole[1].square().sum()).backward()
    wanted, patches.grad = patches.grad, None
    monkeypatch.setattr(module, "VALUES_AT_ONCE", 2 * 3 * 4 * 7)
    parts = late_similarities(patches, words, real)
    (parts[0].square().sum() + parts[1].square().sum()).backward()
    assert torch.allclose(parts[0], whole[0])
    assert torch.allclose(parts[1], whole[1])
    assert wanted is not None
    assert patches.grad is not None
    assert torch.allclose(patches.grad, wanted)


def test_a_reducer_that_chooses_each_token_once_reduces_nothing() -> None:
    reducer = Reducer(6, 6, 1).double()
    with torch.no_grad():
        for layer in (reducer.mixed, reducer.chosen):
            layer.weight.copy_(30 * torch.eye(6, dtype=torch.float64)[..., None])
            assert layer.bias is not None
            layer.bias.zero_()
    tokens = torch.eye(6, dtype=torch.float64)[None]
    assert torch.allclose(reducer(tokens), tokens, atol=1e-9)


def test_a_reducer_mixes_values_from_before_its_norm() -> None:
    reducer = Reducer(6, 2, 3).double()
    with torch.no_grad():
        reducer.chosen.weight.zero_()
    tokens = torch.randn(2, 5, 6, dtype=torch.float64)
    assert torch.allclose(reducer(tokens), tokens.mean(1, keepdim=True).expand(2, 2, 6))
    with pytest.raises(ValueError, match="which 4 groups do not divide"):
        Reducer(6, 2, 4)


def test_the_start_of_a_text_is_left_out() -> None:
    real = torch.tensor([[True, True, True], [True, True, False]])
    assert text_part(real).tolist() == [[False, True, True], [False, True, False]]


def test_the_matching_is_exported_and_read_again() -> None:
    schedule = replace(FINE_TUNING, steps=4, batch_size=6, rate=1e-3)
    adapted = adapt(encoder(), pairs(), Filip(reduced=5, groups=4, width=16), schedule=schedule)
    assert adapted.kind == "late"
    read = token_match_of(adapted.match)
    assert {name: tuple(values.shape) for name, values in read.state_dict().items()} == {
        name: tuple(values.shape) for name, values in adapted.match.items()
    }
    tokens = torch.randn(2, 36, 128)
    again = token_match_of(read.state_dict())
    assert torch.equal(read.patches(tokens), again.patches(tokens))
    assert read.patches(tokens).shape == (2, 5, 16)
    with pytest.raises(ValueError, match="holds no matching of tokens"):
        token_match_of({"image": torch.zeros(3, 2)})


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="reduced is 0"):
        Filip(reduced=0)
    with pytest.raises(ValueError, match="would be 2 wide, and those of texts 3"):
        TokenMatch(torch.zeros(4, 2), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="which 7 groups do not divide"):
        build(Filip(reduced=3, groups=7))

"""Texts that begin alike: the trees of their tokens, and embeddings equal to those of the tower without sharing."""

from __future__ import annotations

import pytest
import torch

from inputs.open_clip_models import MODELS, load_towers, write_model
from rag_clip.models.shared_prefixes import trees
from rag_clip.models.text_tower import causal_tower

TEXTS = [
    "a photo of a kite",
    "a photo of a red kite, which flies",
    "two boats",
    "a photo of a kite",
    "a",
    "a photo of two boats",
    "",
]


def paths(tokens: torch.Tensor, ends: torch.Tensor, budget: int) -> list[list[tuple[int, ...]]]:
    """Return, for each tree, the beginning of each of its nodes, after checking that texts lead through them."""
    rows = tokens.tolist()
    found, seen = [], []
    for order, tree in trees(tokens, ends, budget):
        starts = [
            tuple(rows[order[text]][: place + 1])
            for text, place in zip(tree.texts.tolist(), tree.places.tolist(), strict=True)
        ]
        assert tree.tokens.tolist() == [start[-1] for start in starts]
        assert len(set(starts)) == len(starts)
        for text, row in enumerate(order.tolist()):
            assert int(tree.ends[text]) == int(ends[row])
            for place in range(int(ends[row]) + 1):
                assert starts[int(tree.nodes[text, place])] == tuple(rows[row][: place + 1])
        found.append(starts)
        seen += order.tolist()
    assert sorted(seen) == list(range(len(tokens)))
    return found


@pytest.mark.parametrize("budget", [1, 4, 6, 100])
def test_a_node_is_a_distinct_beginning(budget: int) -> None:
    tokens = torch.tensor([[1, 2, 3, 9, 0, 0], [1, 2, 4, 5, 9, 0], [1, 9, 0, 0, 0, 0], [1, 2, 3, 9, 0, 7]])
    found = paths(tokens, torch.tensor([3, 4, 1, 3]), budget)
    if budget == 100:
        assert len(found) == 1
        assert len(found[0]) == 8  # 1, 12, 123, 1239, 124, 1245, 12459, 19
    else:
        assert all(len(starts) <= max(budget, 5) for starts in found)


def test_equal_texts_are_split_too_so_that_memory_is_bounded() -> None:
    tokens = torch.tensor([[1, 2, 9]]).repeat(100, 1)
    parts = list(trees(tokens, torch.full((100,), 2), 12))
    assert [len(order) for order, _ in parts] == [16] * 6 + [4]
    assert all(len(tree.tokens) == 3 for _, tree in parts)


def test_no_texts_give_no_tree() -> None:
    assert list(trees(torch.zeros(0, 5, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), 8)) == []


@pytest.mark.parametrize("kind", ["clip", "quick gelu and layer scale", "custom text", "end token by id"])
@pytest.mark.parametrize("budget", [3, 20, 1000])
def test_embeddings_equal_those_of_the_tower_without_sharing(tmp_path, kind: str, budget: int) -> None:
    encoder = load_towers(write_model(tmp_path, MODELS[kind]))
    tower = causal_tower(encoder.model)
    assert tower is not None
    tokens = encoder.tokenizer(TEXTS)
    with torch.no_grad():
        shared = tower.encode(tokens, batch_tokens=budget)
    plain = tower.encode(tokens, batch_tokens=budget)  # with gradients nothing is shared
    torch.testing.assert_close(shared, plain.detach(), rtol=0, atol=2e-6)
    assert torch.equal(shared[0], shared[3])

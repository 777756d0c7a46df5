"""A causal text tower that computes beginnings that texts share once.

In a causal tower the state at place p depends on tokens 0..p alone, so texts that begin alike share it. The texts of a
batch, sorted, form a tree: a node is a distinct beginning. Embeddings, norms and products run on nodes [n, width];
attention runs on the texts, whose rows are gathered from the nodes, and its result is taken back once per node. The
last block computes queries, attention and the MLP for end tokens alone. Exact but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear, scaled_dot_product_attention

BLOCK = "open_clip.transformer.ResidualAttentionBlock"  # not imported, since it takes seconds
MOST_GATHERED = 4
"""Places of all texts of a tree, for each node of the budget: what attention gathers stays in memory."""


@dataclass(frozen=True, slots=True)
class Tree:
    """The distinct beginnings of t texts, at most `length` tokens long.

    tokens, places: of each node: its last token and the place of it, int64 [n].
    nodes: the node of each text at each place, int64 [t, length]; past the end of a text, any node.
    texts: a text that each node belongs to, int64 [n].
    ends: the place of the end token of each text, int64 [t].
    """

    tokens: torch.Tensor
    places: torch.Tensor
    nodes: torch.Tensor
    texts: torch.Tensor
    ends: torch.Tensor

    def to(self, device: torch.device) -> Tree:
        """Return it on a device."""
        parts = (self.tokens, self.places, self.nodes, self.texts, self.ends)
        return Tree(*(part.to(device) for part in parts))


def has_shared_blocks(text: Any) -> bool:
    """Return whether the blocks of a text tower are those that `states_at_ends` computes."""
    blocks = text.transformer.resblocks
    return all(
        f"{type(block).__module__}.{type(block).__qualname__}" == BLOCK
        and isinstance(block.attn, nn.MultiheadAttention)
        and block.attn.in_proj_weight is not None
        and block.attn.bias_k is None
        for block in blocks
    )


def trees(tokens: torch.Tensor, ends: torch.Tensor, budget: int) -> Iterator[tuple[torch.Tensor, Tree]]:
    """Split texts, tokens int64 [t, context], into trees of at most `budget` nodes, each with the rows of its texts.

    A text longer than the budget is a tree of its own.

    ends: the place of the end token of each text, int64 [t].
    """
    if not len(tokens):
        return
    tokens, ends = tokens[:, : int(ends.max()) + 1].cpu(), ends.cpu()
    past = torch.arange(tokens.shape[1]) > ends[:, None]
    tokens = tokens.masked_fill(past, torch.iinfo(torch.int64).min)
    ordered, order = _sorted_rows(tokens)
    ends = ends[order]
    same = torch.zeros_like(ordered, dtype=torch.bool)
    same[1:] = (ordered[1:] == ordered[:-1]).int().cumprod(1).bool()  # a beginning that the text before has
    new = ~same & ~past[order]  # [t, length]
    start, count, longest = 0, 0, 0
    for stop, (more, length) in enumerate(zip(new.sum(1).tolist(), (ends + 1).tolist(), strict=True)):
        count, longest = count + more, max(longest, length)
        if stop > start and (count > budget or (stop + 1 - start) * longest > MOST_GATHERED * budget):
            yield order[start:stop], _tree(ordered[start:stop], new[start:stop], ends[start:stop])
            start, count, longest = stop, length, length  # the first text of a tree shares nothing
    yield order[start:], _tree(ordered[start:], new[start:], ends[start:])


def states_at_ends(text: Any, tree: Tree) -> torch.Tensor:
    """Return the states of end tokens after the last block, [t, width], of the texts of a tree."""
    tree = tree.to(text.positional_embedding.device)
    kind = text.transformer.get_cast_dtype()
    x = text.token_embedding(tree.tokens).to(kind) + text.positional_embedding[tree.places].to(kind)  # [n, width]
    *blocks, last = text.transformer.resblocks
    for block in blocks:
        x = _finish(block, x, _attend(block.attn, block.ln_1(x), tree)[tree.texts, tree.places])
    rows = torch.arange(len(tree.ends), device=x.device)
    ended = x[tree.nodes[rows, tree.ends]]  # [t, width]
    return _finish(last, ended, _attend_from_ends(last, x, ended, tree))


def _sorted_rows(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows in the order of their tokens, and that order."""
    order = torch.arange(len(tokens))
    for place in reversed(range(tokens.shape[1])):
        order = order[tokens[order, place].argsort(stable=True)]
    return tokens[order], order


def _tree(tokens: torch.Tensor, new: torch.Tensor, ends: torch.Tensor) -> Tree:
    length = int(ends.max()) + 1
    tokens, new = tokens[:, :length], new[:, :length].clone()
    new[0] = torch.arange(length) <= ends[0]
    numbers = new.flatten().cumsum(0).view_as(new) - 1
    nodes = numbers.masked_fill(~new, 0).cummax(0).values  # the last text before with a new node here has this one
    texts, places = new.nonzero(as_tuple=True)
    return Tree(tokens[texts, places], places, nodes, texts, ends)


def _attend(attention: nn.MultiheadAttention, x: torch.Tensor, tree: Tree) -> torch.Tensor:
    """Attend from each place of each text to those before, [t, length, width], by normalised nodes x [n, width]."""
    shared = linear(x, attention.in_proj_weight, attention.in_proj_bias)[tree.nodes]  # [t, length, 3 width]
    query, key, value = (_heads(part, attention) for part in shared.chunk(3, -1))
    found = scaled_dot_product_attention(query, key, value, is_causal=True)
    return found.transpose(1, 2).flatten(2)


def _attend_from_ends(block: Any, x: torch.Tensor, ended: torch.Tensor, tree: Tree) -> torch.Tensor:
    """Attend from the end of each text to its places, [t, width]."""
    attention, width = block.attn, x.shape[-1]
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    own, others = (None, None) if bias is None else (bias[:width], bias[width:])
    shared = linear(block.ln_1(x), weight[width:], others)[tree.nodes]  # [t, length, 2 width]
    key, value = (_heads(part, attention) for part in shared.chunk(2, -1))
    query = _heads(linear(block.ln_1(ended), weight[:width], own)[:, None], attention)
    seen = torch.arange(tree.nodes.shape[1], device=x.device) <= tree.ends[:, None]  # [t, length]
    found = scaled_dot_product_attention(query, key, value, attn_mask=seen[:, None, None])
    return found.transpose(1, 2).flatten(1)


def _heads(x: torch.Tensor, attention: nn.MultiheadAttention) -> torch.Tensor:
    """Split rows [t, l, width] into heads [t, heads, l, width / heads]."""
    return x.view(*x.shape[:-1], attention.num_heads, -1).transpose(1, 2)


def _finish(block: Any, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """Return rows [n, width] after a block, from those before it and what they attended to."""
    x = x + block.ls_1(block.attn.out_proj(attended))
    finished: torch.Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return finished

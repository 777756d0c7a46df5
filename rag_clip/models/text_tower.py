"""CLIP's text tower at the true length of its texts, and with learned vectors in the place of tokens.

In a causal tower pooled at the end token nothing that follows the end token reaches the embedding, so padding is cut.
Other towers keep their whole context.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

# On a CPU small batches stay in its caches and pad little; accelerators want large ones (tests/benchmarks).
TOKENS_PER_BATCH_ON_CPU = 1024
TOKENS_PER_BATCH = 32768


@dataclass(frozen=True, slots=True)
class CausalTower:
    """The parts of a causal text tower: `text` holds them, `end` is its end token (None: the largest id)."""

    text: Any
    end: int | None

    def encode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embed tokens [t, context] as rows [t, d], not normalised, on the tower's device.

        Rows are computed in batches of about equal length, of a bounded number of tokens each.
        """
        on_cpu = self.text.positional_embedding.device.type == "cpu"
        budget = TOKENS_PER_BATCH_ON_CPU if on_cpu else TOKENS_PER_BATCH
        ends = tokens.argmax(1) if self.end is None else (tokens == self.end).int().argmax(1)
        order = ends.argsort()
        rows = torch.cat([self._forward(tokens[batch], ends[batch]) for batch in _batches(ends, order, budget)])
        return rows[order.argsort().to(rows.device)]

    def _forward(self, tokens: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        text, length = self.text, int(ends.max()) + 1
        device = text.positional_embedding.device
        tokens, ends = tokens[:, :length].to(device), ends.to(device)
        kind = text.transformer.get_cast_dtype()
        x = text.token_embedding(tokens).to(kind) + text.positional_embedding[:length].to(kind)  # [t, length, width]
        mask = text.attn_mask[:length, :length].to(x.dtype)
        for block in text.transformer.resblocks:
            x = block(x, attn_mask=mask)
        x = text.ln_final(x[torch.arange(len(x), device=device), ends])
        return _project(x, text.text_projection)


def _project(x: torch.Tensor, projection: nn.Linear | torch.Tensor | None) -> torch.Tensor:
    if isinstance(projection, nn.Linear):
        return nn.functional.linear(x, projection.weight, projection.bias)
    return x if projection is None else x @ projection


def causal_tower(model: nn.Module) -> CausalTower | None:
    """Return the model's text tower where padding can be cut without changing its embeddings, else None."""
    text = getattr(model, "text", model)
    pool = getattr(text, "pool_type", None) or getattr(text, "text_pool_type", None)
    mask = getattr(text, "attn_mask", None)
    if mask is None or getattr(text, "cls_emb", None) is not None or pool not in ("argmax", "eos"):
        return None
    if not torch.equal(mask.isneginf(), torch.ones_like(mask).triu(1).bool()):
        return None
    return CausalTower(text, None if pool == "argmax" else getattr(text, "eos_id", getattr(text, "text_eos_id", None)))


def _batches(ends: torch.Tensor, order: torch.Tensor, budget: int) -> Iterator[torch.Tensor]:
    """Cut `order`, sorted by length, where the next row would make a padded batch exceed `budget` tokens."""
    start = 0
    for stop, row in enumerate(order.tolist()):
        if stop > start and (stop + 1 - start) * (int(ends[row]) + 1) > budget:
            yield order[start:stop]
            start = stop
    yield order[start:]


class _LearnedTokens(nn.Module):
    """A token table in which the ids below zero are rows of `vectors`: id -1 - k is row k."""

    def __init__(self, table: nn.Module, vectors: torch.Tensor) -> None:
        super().__init__()
        self.table, self.vectors = table, vectors

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        known: torch.Tensor = self.table(tokens.clamp(min=0))
        learned = self.vectors[(-1 - tokens).clamp(min=0)].to(known)
        return torch.where((tokens < 0)[..., None], learned, known)


def token_table(model: nn.Module) -> nn.Module:
    """Return what turns the token ids of a model's text tower into vectors."""
    text: Any = getattr(model, "text", model)
    table: nn.Module = text.token_embedding if _is_native(text) else text.transformer.get_input_embeddings()
    return table


@contextmanager
def learned_tokens(model: nn.Module, vectors: torch.Tensor) -> Iterator[None]:
    """Let token ids below zero stand for rows of `vectors` [r, e] (id -1 - k for row k); gradients reach them.

    Towers of open_clip's own and of Hugging Face alike: neither pools at such an id nor takes it for padding.
    """
    text: Any = getattr(model, "text", model)
    table = token_table(model)
    replaced = _LearnedTokens(table, vectors)
    try:
        _set_table(text, replaced)
        yield
    finally:
        _set_table(text, table)


def _is_native(text: Any) -> bool:
    return hasattr(text, "token_embedding")


def _set_table(text: Any, table: nn.Module) -> None:
    if _is_native(text):
        text.token_embedding = table
    else:
        text.transformer.set_input_embeddings(table)

"""CLIP's text tower without padding, and with learned vectors in place of tokens.

In a causal tower pooled at the end token, later positions cannot affect the embedding, so padding can be cut. Other
towers run on their whole context.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rag_clip.models.shared_prefixes import has_shared_blocks, states_at_ends, trees

# On a CPU small batches fit in the caches and need little padding; accelerators need large ones (tests/benchmarks).
TOKENS_PER_BATCH_ON_CPU = 1024
TOKENS_PER_BATCH = 32768


@dataclass(frozen=True, slots=True)
class CausalTower:
    """A causal text tower: `text` is the module with its parts, `end` its end token (None: the largest id)."""

    text: Any
    end: int | None

    def encode(self, tokens: torch.Tensor, *, batch_tokens: int | None = None) -> torch.Tensor:
        """Embed tokens [t, context] as rows [t, d], not normalised, on the tower's device.

        In batches of at most `batch_tokens` tokens; by default, as many as the device is fast with. Without gradients
        a beginning that several texts have is computed once, see `shared_prefixes`; with them texts of similar length
        are computed together.
        """
        on_cpu = self.text.positional_embedding.device.type == "cpu"
        budget = batch_tokens or (TOKENS_PER_BATCH_ON_CPU if on_cpu else TOKENS_PER_BATCH)
        ends = self._ends(tokens)
        if not torch.is_grad_enabled() and has_shared_blocks(self.text):
            parts = [
                (rows, self._finish(states_at_ends(self.text, tree))) for rows, tree in trees(tokens, ends, budget)
            ]
            order = torch.cat([rows for rows, _ in parts])
            rows = torch.cat([part for _, part in parts])
        else:
            order = ends.argsort()
            rows = torch.cat([self._forward(tokens[batch], ends[batch]) for batch in _batches(ends, order, budget)])
        return rows[order.argsort().to(rows.device)]

    def tokens(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens of texts after the last norm, float32 [t, length, width], and which are text, bool."""
        ends = self._ends(tokens)
        x: torch.Tensor = self.text.ln_final(self._states(tokens, ends)).float()
        return x, torch.arange(x.shape[1], device=x.device) <= ends.to(x.device)[:, None]

    def _ends(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.argmax(1) if self.end is None else (tokens == self.end).int().argmax(1)  # [t]

    def _forward(self, tokens: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        x = self._states(tokens, ends)
        return self._finish(x[torch.arange(len(x), device=x.device), ends.to(x.device)])

    def _finish(self, states: torch.Tensor) -> torch.Tensor:
        """Embed texts by the states [t, width] of their end tokens."""
        return _project(self.text.ln_final(states), self.text.text_projection)

    def _states(self, tokens: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Return the states after the last block, [t, length, width], without the padding after the longest text."""
        text, length = self.text, int(ends.max()) + 1
        device = text.positional_embedding.device
        tokens = tokens[:, :length].to(device)
        kind = text.transformer.get_cast_dtype()
        x = text.token_embedding(tokens).to(kind) + text.positional_embedding[:length].to(kind)  # [t, length, width]
        mask = text.attn_mask[:length, :length].to(x.dtype)
        for block in text.transformer.resblocks:
            x = block(x, attn_mask=mask)
        states: torch.Tensor = x
        return states


def _project(x: torch.Tensor, projection: nn.Linear | torch.Tensor | None) -> torch.Tensor:
    if isinstance(projection, nn.Linear):
        return nn.functional.linear(x, projection.weight, projection.bias)
    return x if projection is None else x @ projection


def causal_tower(model: nn.Module) -> CausalTower | None:
    """Return the model's text tower if padding can be cut without changing its embeddings, else None."""
    text = getattr(model, "text", model)
    pool = getattr(text, "pool_type", None) or getattr(text, "text_pool_type", None)
    mask = getattr(text, "attn_mask", None)
    if mask is None or getattr(text, "cls_emb", None) is not None or pool not in ("argmax", "eos"):
        return None
    if not torch.equal(mask.isneginf(), torch.ones_like(mask).triu(1).bool()):
        return None
    return CausalTower(text, None if pool == "argmax" else getattr(text, "eos_id", getattr(text, "text_eos_id", None)))


def _batches(ends: torch.Tensor, order: torch.Tensor, budget: int) -> Iterator[torch.Tensor]:
    """Split `order`, sorted by length, into batches of at most `budget` tokens including padding, at least one row."""
    start = 0
    for stop, row in enumerate(order.tolist()):
        if stop > start and (stop + 1 - start) * (int(ends[row]) + 1) > budget:
            yield order[start:stop]
            start = stop
    yield order[start:]


class _LearnedTokens(nn.Module):
    """A token embedding in which ids below zero are rows of `vectors`: id -1 - k is row k."""

    def __init__(self, table: nn.Module, vectors: torch.Tensor) -> None:
        super().__init__()
        self.table, self.vectors = table, vectors

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        known: torch.Tensor = self.table(tokens.clamp(min=0))  # [t, length, e]
        learned = self.vectors[(-1 - tokens).clamp(min=0)].to(known)  # [t, length, e]
        return torch.where((tokens < 0)[..., None], learned, known)


def token_table(model: nn.Module) -> nn.Module:
    """Return the token embedding module of a model's text tower."""
    text: Any = getattr(model, "text", model)
    table: nn.Module = text.token_embedding if _is_native(text) else text.transformer.get_input_embeddings()
    return table


@contextmanager
def learned_tokens(model: nn.Module, vectors: torch.Tensor) -> Iterator[None]:
    """In this context, token id -1 - k means row k of `vectors` [r, e]; gradients reach the vectors.

    Works for open_clip's own towers and for those of Hugging Face: neither treats such an id as end token or padding.
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

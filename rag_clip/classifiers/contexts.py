"""Learned vectors around class names: the form of a context, its start, and the token ids of its prompts.

    end:    start, v_1 .. v_M, name, ".", end
    middle: start, v_1 .. v_M/2, name, the other v, ".", end
    front:  start, name, v_1 .. v_M, ".", end

Zhou et al., IJCV 2022 (arXiv 2109.01134). The position of the name is found with the tokenizer alone, so that any
tokenizer works.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rag_clip.display import counted
from rag_clip.files.learned_prompts import Position
from rag_clip.models.towers import TwoTowers

DEVIATION = 0.02


@dataclass(frozen=True, slots=True)
class Context:
    """A context of `length` vectors (M), the position of the name, and whether each class has its own context.

    With `words`, the context starts from their vectors and has their length. Raises ValueError if the length is zero.
    """

    length: int = 16
    position: Position = "end"
    per_class: bool = False
    words: str = ""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(
                f"a context of {counted(self.length, 'vector')} cannot be learned; its length must be at least 1"
            )


def start_vectors(encoder: TwoTowers, context: Context, names: Sequence[str], *, seed: int) -> torch.Tensor:
    """Return a context before training, float32 [m, e], or [c, m, e] if per class, on the encoder's device.

    The vectors are drawn from N(0, 0.02^2), per class with a seed from its name, or are those of the words.
    """
    if context.words:
        begin, (stop,) = _spans(encoder, [context.words])
        vectors = encoder.token_vectors(encoder.tokenizer([context.words])[0, begin:stop])
        return vectors.expand(len(names), -1, -1).clone() if context.per_class else vectors
    width = encoder.token_vectors(torch.zeros(1, dtype=torch.int64)).shape[-1]
    if not context.per_class:
        return draw_normal(context.length, width, f"{seed}").to(encoder.device)
    return torch.stack([draw_normal(context.length, width, f"{seed} {name}") for name in names]).to(encoder.device)


def prompt_tokens(
    encoder: TwoTowers, names: Sequence[str], *, length: int, position: Position, per_class: bool = False
) -> torch.Tensor:
    """Return token ids int64 [c, context] of "NAME." with learned tokens (see `encode_tokens`) around each name.

    encoder: an encoder with a tokenizer.
    names: the class names.
    length: the number of learned vectors.
    position: where the name stands.
    per_class: class k uses the rows from k * length on; otherwise all classes use the first `length` rows.

    Raises ValueError if a name is too long to leave room for `length` tokens.
    """
    names = [name.replace("_", " ") for name in names]
    texts = encoder.tokenizer([f"{name}." for name in names])
    padding, room = int(encoder.tokenizer([""])[0, -1]), texts.shape[1] - length
    begin, stops = _spans(encoder, names)
    ahead = {"end": length, "middle": length // 2, "front": 0}[position]
    rows = []
    for index, (text, stop) in enumerate(zip(texts, stops, strict=True)):
        if room < 1 or not bool((text[room:] == padding).all()):
            raise ValueError(
                f"class {names[index][:60]!r} leaves no room for {length} learned vectors among the {len(text)} "
                "tokens of the text tower; learn a shorter context, or shorten the name"
            )
        learned = -1 - torch.arange(length) - (index * length if per_class else 0)
        rows.append(torch.cat([text[:begin], learned[:ahead], text[begin:stop], learned[ahead:], text[stop:room]]))
    return torch.stack(rows)


def _spans(encoder: TwoTowers, texts: Sequence[str]) -> tuple[int, list[int]]:
    """Return where the words of every text begin, and where those of each text end.

    The words end before the first token that changes when another word is added.
    """
    empty, letter = encoder.tokenizer(["", "x"])
    alone, longer = encoder.tokenizer(list(texts)), encoder.tokenizer([f"{text} x" for text in texts])
    return _common(empty, letter), [_common(*pair) for pair in zip(alone, longer, strict=True)]


def _common(first: torch.Tensor, second: torch.Tensor) -> int:
    return int((first == second).int().cumprod(0).sum())


def draw_normal(length: int, width: int, key: str) -> torch.Tensor:
    """Return float32 [length, width] from N(0, 0.02^2), by a seed made of the key."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "little")
    return DEVIATION * torch.randn(length, width, generator=torch.Generator().manual_seed(seed))

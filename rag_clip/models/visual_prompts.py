"""Visual prompts: learned tokens beside those of an image, appended before a block of a frozen tower, dropped after it.

    blocks below b:   r learned tokens
    blocks from b on: q = t_k W + bias    [n, K, D]      k the K classes that frozen image and texts rank first
                      X = [stop-gradient(tokens); extra]  [n, l, D]
                      o = softmax(q A_q (X A_k)' / sqrt(32)) X A_v  [n, K, D]      appended: LayerNorm(o + q)

Xing et al., IEEE TMM 2023 (arXiv 2208.08340): t [c, d] are the class vectors that are learned beside the tokens. The
tokens have no positions. Here t are unit vectors, where the authors' code takes them before normalisation; the scale is
a matter of W.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from PIL import Image
from torch import nn

from rag_clip.data import Features
from rag_clip.display import counted
from rag_clip.models.towers import IMAGE_BATCH, TwoTowers, image_projection
from rag_clip.protocols import Encoder

INNER = 32  # width of queries and keys
DEVIATION = 0.02


class ClassAware(nn.Module):
    """The class-aware tokens of one block: from class vectors of width d to tokens of width D; c_j is `extra`."""

    def __init__(self, dim: int, width: int, extra: int) -> None:
        super().__init__()
        self.lin = nn.Linear(dim, width)
        self.query, self.key = (nn.Linear(width, INNER, bias=False) for _ in range(2))
        self.value = nn.Linear(width, width, bias=False)
        self.extra = nn.Parameter(DEVIATION * torch.randn(extra, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens to append and o, both [n, K, D], for the tokens [n, l, D] and class vectors [n, K, d]."""
        q = self.lin(classes)  # [n, K, D]
        x = torch.cat([tokens.detach(), self.extra.expand(len(tokens), -1, -1)], 1)  # [n, l + extra, D]
        weights = (self.query(q) @ self.key(x).transpose(1, 2) / INNER**0.5).softmax(-1)  # [n, K, l + extra]
        o = self.value(weights @ x)
        return self.norm(o + q), o


class VisualPrompts(nn.Module):
    """The learned tokens `prompts` [b - 1, r, D], and `generators`, the class-aware ones of the blocks from b on.

    `texts` and `classes` are unit rows [c, d]: the texts that rank the classes of a frozen image, and the learned class
    vectors. `top` is K, at most c. Without class-aware tokens every block has the r learned ones.
    """

    prompts: nn.Parameter
    texts: torch.Tensor
    classes: torch.Tensor
    top: torch.Tensor

    def __init__(self, texts: torch.Tensor, *, blocks: int, width: int, length: int, top: int, first: int) -> None:
        """Draw the start with torch's generator.

        texts: unit rows [c, d].
        blocks, width: number of blocks L of the tower, and the width D of their tokens.
        length: r, learned tokens of a block, and extra ones of the class-aware attention.
        top: K, class-aware tokens of a block; 0 for none.
        first: b, the first block of class-aware tokens, from 1; ignored without them.
        """
        super().__init__()
        below = first - 1 if top else blocks
        self.prompts = nn.Parameter(DEVIATION * torch.randn(below, length, width))
        aware = (ClassAware(texts.shape[1], width, length) for _ in range(blocks - below))
        self.generators = nn.ModuleList(aware)
        self.register_buffer("texts", texts.detach().clone())
        self.register_buffer("classes", texts.detach().clone())
        self.register_buffer("top", torch.tensor(min(top, len(texts))))

    @property
    def changes_nothing(self) -> bool:
        """Whether no token is appended to any block."""
        return not self.generators and self.prompts.shape[1] == 0

    def rank(self, features: torch.Tensor) -> torch.Tensor:
        """Return the K classes int64 [n, K] of frozen image features [n, d], best first."""
        ranked: torch.Tensor = (features.to(self.texts) @ self.texts.T).topk(int(self.top), 1).indices
        return ranked

    def embed(
        self, towers: TwoTowers, pixels: torch.Tensor, ranked: torch.Tensor, classes: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return unit features [n, d] of uint8 pixels with the tokens, and the o [n, K, D] of each class-aware block.

        ranked: the K classes of each image, int64 [n, K].
        classes: unit class vectors [c, d], which gradients may reach.
        """
        attended: list[torch.Tensor] = []

        def tokens_of(block: int, tokens: torch.Tensor) -> torch.Tensor:
            if block < len(self.prompts):
                return self.prompts[block].expand(len(tokens), -1, -1)
            made, o = self.generators[block - len(self.prompts)](tokens.float(), classes[ranked])
            attended.append(o)
            return cast(torch.Tensor, made)

        with appended(towers.model.visual, tokens_of):
            return towers.encode_pixels(pixels).pooled, attended


def start_visual_prompts(
    towers: TwoTowers, texts: torch.Tensor, *, length: int, top: int, first: int | None = None, seed: int = 0
) -> VisualPrompts:
    """Return visual prompts before training, on the encoder's device; `first` is the last block if None.

    Raises ValueError for an image tower that is no vision transformer, and for a block that it does not have.
    """
    blocks = _blocks(towers.model.visual)
    first = len(blocks) if first is None else first
    if not 1 <= first <= len(blocks):
        raise ValueError(
            f"block {first} cannot be the first with class-aware tokens; the image tower has "
            f"{counted(len(blocks), 'block')}"
        )
    width = image_projection(towers.model.visual).shape[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = VisualPrompts(texts.float().cpu(), blocks=len(blocks), width=width, length=length, top=top, first=first)
    return made.to(towers.device)


def read_visual_prompts(state: Mapping[str, torch.Tensor]) -> VisualPrompts:
    """Return visual prompts from their `state_dict`; raises ValueError for tensors that are not of one."""
    try:
        below, length, width = state["prompts"].shape
        aware = {name.split(".")[1] for name in state if name.startswith("generators.")}
        made = VisualPrompts(
            state["texts"],
            blocks=below + len(aware),
            width=width,
            length=length,
            top=int(state["top"]),
            first=below + 1,
        )
        made.load_state_dict(dict(state))
    except (KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"the visual prompts are not complete ({error}); learn them again") from error
    return made.requires_grad_(False)


def _blocks(visual: Any) -> Sequence[nn.Module]:
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if blocks is None or not getattr(visual.transformer, "batch_first", True):
        raise ValueError(
            f"the image tower {type(visual).__name__} has no transformer blocks for visual prompts; this needs a "
            "vision transformer of open_clip, such as ViT-B-32"
        )
    return cast(Sequence[nn.Module], blocks)


@contextmanager
def appended(visual: Any, tokens_of: Callable[[int, torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """In this context, block k of a vision transformer, from 0, also sees `tokens_of(k, tokens)` [n, r, D].

    `tokens` [n, l, D] are those that reach the block. Raises ValueError for another image tower.
    """

    def before(block: int) -> Callable[..., tuple[torch.Tensor]]:
        def extend(_: nn.Module, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            (tokens,) = given
            more = tokens_of(block, tokens).to(tokens)
            lengths[block] = tokens.shape[1]
            return (torch.cat([tokens, more], 1),)

        return extend

    def after(block: int) -> Callable[..., torch.Tensor]:
        return lambda _, __, tokens: tokens[:, : lengths[block]]

    lengths: dict[int, int] = {}
    with ExitStack() as hooks:
        for index, block in enumerate(_blocks(visual)):
            hooks.callback(block.register_forward_pre_hook(before(index)).remove)
            hooks.callback(block.register_forward_hook(after(index)).remove)
        yield


class _Prompted:
    """An encoder whose image tower has visual prompts."""

    def __init__(self, towers: TwoTowers, visual: VisualPrompts) -> None:
        self._towers, self._visual = towers, visual
        digest = hashlib.sha256(
            b"".join(value.cpu().numpy().tobytes() for value in visual.state_dict().values())
        ).hexdigest()
        own = hashlib.sha256(f"{towers.fingerprint.weights} visual prompts {digest}".encode()).hexdigest()
        self.fingerprint = replace(towers.fingerprint, weights=own, of_images="")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._towers, name)

    @torch.no_grad()
    def encode_pixels(self, pixels: torch.Tensor, *, patches: bool = False) -> Features:
        if patches:
            raise ValueError("visual prompts are learned for pooled features; use patches=False")
        frozen = self._towers.encode_pixels(pixels)
        if self._visual.changes_nothing:
            return frozen
        ranked = self._visual.rank(frozen.pooled)
        return Features(self._visual.embed(self._towers, pixels, ranked, self._visual.classes)[0])

    def encode_images(self, images: Sequence[Image.Image | bytes], *, patches: bool = False) -> Features:
        parts = [
            self.encode_pixels(self._towers.to_pixels(images[start : start + IMAGE_BATCH]), patches=patches).pooled
            for start in range(0, len(images), IMAGE_BATCH)
        ]
        return Features(torch.cat(parts) if parts else torch.zeros(0, self._towers.dim, device=self._towers.device))


def prompted(towers: TwoTowers, visual: VisualPrompts) -> Encoder:
    """Return the encoder with visual prompts in its image tower: two passes an image, the first ranks the classes.

    Its fingerprint is its own, so kept features are stored apart from those of the frozen tower.
    """
    return cast(Encoder, _Prompted(towers, visual.to(towers.device)))

"""The two towers of an encoder in training: what may move, and how batches are encoded with gradients.

A locked tower has no gradient and is in evaluation mode, so that dropout is off and batch norm statistics stay (LiT,
Zhai et al., 2022, arXiv 2111.07991). Large batches are encoded a chunk at a time without keeping activations, which
are computed again for the gradient (gradient caching, Gao et al., 2021, arXiv 2101.06983): the loss is that of the
whole batch, unlike with accumulated gradients.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from rag_clip.models.towers import TwoTowers, image_projection
from rag_clip.training.batches import Batch

LOCKS = "none, image, text, both, or image:G, which leaves the top G groups of the image tower free"
LOGITS = ("logit_scale", "logit_bias")
Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Lock:
    """Which towers may not move; of a locked image tower the top `groups` groups may."""

    image: bool = False
    text: bool = False
    groups: int = 0

    @property
    def whole_image(self) -> bool:
        """Whether nothing of the image tower moves."""
        return self.image and not self.groups


def read_lock(text: str) -> Lock:
    """Return the lock named none, image, text, both or image:G; raises ValueError for anything else."""
    known = {"none": Lock(), "image": Lock(image=True), "text": Lock(text=True), "both": Lock(True, True)}
    if text in known:
        return known[text]
    if re.fullmatch(r"image:[1-9]\d{0,3}", text):
        return Lock(image=True, groups=int(text.removeprefix("image:")))
    raise ValueError(f"the lock is {text!r}; give {LOCKS}")


@dataclass(frozen=True, slots=True, eq=False)
class Towers:
    """A float32 copy of an encoder's towers, in training; made by `unlocked`.

    encoder: the copy.
    lock: which towers may not move.
    chunk: images or texts that are encoded at once; None for a whole batch.
    """

    encoder: TwoTowers
    lock: Lock = Lock()
    chunk: int | None = None

    @property
    def model(self) -> Any:
        """The open_clip model."""
        return self.encoder.model

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.encoder.device

    @property
    def scale(self) -> torch.Tensor:
        """exp(logit_scale), a scalar with gradient if it is trained."""
        scale: torch.Tensor = self.model.logit_scale.exp()
        return scale

    def parameters(self) -> list[nn.Parameter]:
        """Return the weights of the towers that may move, without logit scale and bias."""
        return [weight for name, weight in self.model.named_parameters() if weight.requires_grad and name not in LOGITS]

    def buffers(self) -> list[torch.Tensor]:
        """Return what the towers change without gradient, such as batch norm statistics."""
        return [value for name, value in self.model.named_buffers() if not name.endswith("attn_mask")]

    def set_modes(self) -> None:
        """Put the towers that move in training mode, and all else in evaluation mode."""
        self.model.train()
        if self.lock.image:
            self.model.visual.eval()
        if self.lock.text:
            for name, module in self.model.named_children():
                if name != "visual":
                    module.eval()

    def embed_images(self, batch: Batch, view: int = 0) -> torch.Tensor:
        """Return unit features [n, d] of a view of the images, or their kept features."""
        if batch.features is not None:
            return batch.features.to(self.device)
        return self.embed_pixels(batch.views[view])

    def embed_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed uint8 pixels [n, 3, height, width] as unit rows [n, d]."""
        return self._in_chunks(lambda part: self.encoder.encode_pixels(part).pooled, pixels)

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Embed texts as unit rows [t, d], with gradients."""
        return self._in_chunks(self.encoder.encode_tokens, self.encoder.tokenizer(list(texts)))

    @property
    def backbone_width(self) -> int:
        """The width D of features and patch tokens before the projection; raises ValueError as `backbone` does."""
        return int(image_projection(self.model.visual).shape[0])

    def backbone(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image features before the projection to the joint space [n, D], and unit features [n, d].

        Raises ValueError for an image tower without a projection matrix.
        """
        projection = image_projection(self.model.visual)

        def encode(part: torch.Tensor) -> torch.Tensor:
            with _without_projection(self.model.visual):
                return self._raw(part)

        backbone = self._in_chunks(encode, pixels)  # [n, D]
        return backbone, normalize(backbone @ projection, dim=-1)

    def _raw(self, pixels: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.model.encode_image(self.encoder.normalised(pixels)).float()
        return values

    def embed_patches(self, batch: Batch, view: int = 0) -> torch.Tensor:
        """Return the patch tokens of the images after the last norm, before the projection, [n, p, D].

        Kept tokens if the batch has them. Raises ValueError for an image tower without such tokens.
        """
        if batch.patches is not None:
            return batch.patches.to(self.device).float()
        return self._in_chunks(self.encoder.patch_tokens, batch.views[view])

    def embed_whole(self, batch: Batch, view: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `embed_images` [n, d] and `embed_patches` [n, p, D] in one pass of the image tower."""
        if batch.patches is not None:
            return self.embed_images(batch), self.embed_patches(batch)
        features, patches = zip(*self._parts(self.encoder.encode_whole, batch.views[view]), strict=True)
        return torch.cat(features), torch.cat(patches)

    def embed_text_tokens(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens of texts after the last norm, before the projection, [t, l, D], and bool [t, l].

        The second value is true for tokens of the text, including its start and end, and false for padding. Raises
        ValueError for a text tower that is not causal.
        """
        return self.encoder.text_tokens(self.encoder.tokenizer(list(texts)))

    def _in_chunks(self, encode: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> torch.Tensor:
        return torch.cat(self._parts(encode, values))

    def _parts(self, encode: Callable[[torch.Tensor], Part], values: torch.Tensor) -> list[Part]:
        if self.chunk is None or len(values) <= self.chunk or not torch.is_grad_enabled():
            return [encode(values)]
        return [checkpoint(encode, part, use_reentrant=False) for part in torch.split(values, self.chunk)]


def unlocked(encoder: TwoTowers, lock: Lock = Lock(), *, chunk: int | None = None, scale: bool = True) -> Towers:
    """Return a float32 copy of an encoder's towers whose weights may move, except those that are locked.

    encoder: the encoder; it is not changed.
    lock: which towers may not move.
    chunk: see Towers.
    scale: whether the logit scale is trained, and the bias, if the model has one.
    """
    model = copy.deepcopy(encoder.model).float()
    for name, weight in model.named_parameters():
        weight.requires_grad_(scale if name in LOGITS else not lock.text or name.startswith("visual."))
    if lock.image:
        try:
            model.lock_image_tower(unlocked_groups=lock.groups, freeze_bn_stats=True)
        except (RuntimeError, KeyError, IndexError) as error:
            raise ValueError(f"the image tower cannot be locked but for {lock.groups} groups ({error})") from error
        if lock.whole_image:
            model.visual.requires_grad_(False)
    copied = replace(encoder, model=model, fingerprint=replace(encoder.fingerprint, precision="fp32"))
    return Towers(copied, lock, chunk)


@contextmanager
def _without_projection(visual: Any) -> Iterator[None]:
    projection = visual.proj
    visual.proj = None
    try:
        yield
    finally:
        visual.proj = projection

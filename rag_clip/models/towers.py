"""An image and a text tower of open_clip as an Encoder; uses the attributes of its modules without importing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from rag_clip.data import Features, Fingerprint
from rag_clip.models.decode import decode_image
from rag_clip.models.pixels import CentreCrop, PixelTransform
from rag_clip.models.text_tower import causal_tower, learned_tokens, token_table
from rag_clip.protocols import Encoder

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WHOLE_CONTEXT_BATCH = 256
IMAGE_BATCH = 64


@dataclass(frozen=True, slots=True, eq=False)
class TwoTowers:
    """An open_clip model as an Encoder; made by `load_encoder`. `mean` and `std` are per RGB channel.

    `config` is the content of its `open_clip_config.json`, `merges` the file of its tokenizer, if it has its own, and
    `folder` where it was read from, if that was a folder.
    Embeddings have no gradient, but are ordinary tensors (not inference tensors), so heads can be trained on them.
    """

    name: str
    model: Any
    tokenizer: Any
    fingerprint: Fingerprint
    device: torch.device
    dim: int
    scale: float
    bias: float
    trained_bias: bool
    preprocess: PixelTransform | CentreCrop
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    config: Mapping[str, Any] = field(default_factory=dict)
    merges: Path | None = None
    folder: Path | None = None

    def __repr__(self) -> str:
        return f"TwoTowers({self.name!r}, width {self.dim}, {self.fingerprint.precision} on {self.device})"

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Embed texts as float32 unit rows [t, d] on `device`; equal texts are computed once.

        Texts longer than the context are truncated. In a causal tower padding is not computed.
        """
        if not texts:
            return torch.zeros(0, self.dim, device=self.device)
        distinct: dict[str, int] = {}
        rows = [distinct.setdefault(text, len(distinct)) for text in texts]
        return self._embed(self.tokenizer(list(distinct)))[rows]

    def encode_tokens(self, tokens: torch.Tensor, vectors: torch.Tensor | None = None) -> torch.Tensor:
        """Embed token ids int64 [t, context] as unit rows [t, d]; id -1 - k means row k of `vectors` [r, e].

        Gradients reach `vectors`, and weights that are not frozen.
        """
        if vectors is None:
            return self._embed(tokens)
        with learned_tokens(self.model, vectors):
            return self._embed(tokens)

    @torch.no_grad()
    def token_vectors(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the token embeddings of ids [...] as float32 [..., e], before positions are added."""
        vectors: torch.Tensor = token_table(self.model)(tokens.to(self.device))
        return vectors.float()

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        tower = causal_tower(self.model)
        if tower:
            return _unit(tower.encode(tokens))
        whole = [self.model.encode_text(part.to(self.device)) for part in torch.split(tokens, WHOLE_CONTEXT_BATCH)]
        return _unit(torch.cat(whole))

    def encode_pixels(self, pixels: torch.Tensor, *, patches: bool = False) -> Features:
        """Embed uint8 pixels [n, 3, height, width] in one batch as Features on `device`.

        Gradients reach weights that are not frozen; a loaded encoder is frozen. Patch features are the patch tokens
        after the last block, projected to the joint space like the class token. Raises ValueError for an image tower
        without them.
        """
        values = self.normalised(pixels)
        if not patches:
            return Features(_unit(self.model.encode_image(values)))
        pooled, tokens = _with_patches(self.model.visual, values)
        return Features(_unit(pooled), _unit(tokens))

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return uint8 pixels [n, 3, height, width] as the model's input, of the same shape."""
        return standardised(pixels.to(self.device), self.mean, self.std).to(DTYPES[self.fingerprint.precision])

    def patch_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the patch tokens of uint8 pixels after the last norm, before the projection, float32 [n, p, D].

        Raises ValueError as `encode_pixels` does for patches.
        """
        return _with_tokens(self.model.visual, self.normalised(pixels))[1].float()

    def encode_whole(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return unit features [n, d] and the patch tokens of `patch_tokens` [n, p, D] of uint8 pixels, in one pass."""
        pooled, tokens = _with_tokens(self.model.visual, self.normalised(pixels))
        return _unit(pooled), tokens.float()

    def text_tokens(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens of texts after the last norm, before the projection, float32 [t, l, D], and bool [t, l].

        tokens: token ids int64 [t, context]; l is the length of the longest text.

        The second value is true for the tokens of a text, including start and end, false for padding. Raises ValueError
        for a text tower that is not causal.
        """
        tower = causal_tower(self.model)
        if tower is None:
            raise ValueError(f"the text tower of {self.name!r} is not causal; this needs a model such as ViT-B-32")
        return tower.tokens(tokens)

    def encode_images(self, images: Sequence[Image.Image | bytes], *, patches: bool = False) -> Features:
        """Decode where needed, preprocess and embed images, `IMAGE_BATCH` at a time. Raises decode.ImageError."""
        if not images:
            return Features(torch.zeros(0, self.dim, device=self.device))
        parts = [
            self.encode_pixels(self.to_pixels(images[start : start + IMAGE_BATCH]), patches=patches)
            for start in range(0, len(images), IMAGE_BATCH)
        ]
        found = [part.patches for part in parts if part.patches is not None]
        return Features(torch.cat([part.pooled for part in parts]), torch.cat(found) if found else None)

    def to_pixels(self, images: Sequence[Image.Image | bytes]) -> torch.Tensor:
        """Decode where needed, and return uint8 pixels [n, 3, height, width]; raises decode.ImageError."""
        side = self.preprocess.least_side
        decoded = (decode_image(image, least_side=side) if isinstance(image, bytes) else image for image in images)
        return torch.stack([torch.from_numpy(self.preprocess(image)).permute(2, 0, 1) for image in decoded])


def two_towers(encoder: Encoder) -> TwoTowers:
    """Return the encoder if it is an open_clip model, which gradients can pass through; raises ValueError otherwise."""
    if not isinstance(encoder, TwoTowers):
        raise ValueError(
            f"encoder {encoder.name!r} has no text tower to train through; name an open_clip model, such as demo or "
            "ViT-B-32:openai"
        )
    return encoder


def standardised(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Return pixels [n, 3, h, w] of 0 to 255 less the mean and by the deviation of each channel, as float32.

    The constants are filled in on the device: a copy of them would make this process wait for a GPU.
    """
    centre, spread = (
        torch.cat([pixels.new_full((1, 1, 1), each, dtype=torch.float32) for each in values]) for values in (mean, std)
    )
    return (pixels.float() / 255).sub(centre).div(spread)


def image_projection(visual: Any) -> torch.Tensor:
    """Return the matrix [D, d] from an image tower's tokens to the joint space; raises ValueError if it has none."""
    projection = getattr(visual, "proj", None)
    if not isinstance(projection, torch.Tensor):
        raise ValueError(
            f"the image tower {type(visual).__name__} has no projection matrix; this needs a vision transformer, such "
            "as ViT-B-32"
        )
    return projection


def _unit(rows: torch.Tensor) -> torch.Tensor:
    # In float32, since squares overflow in float16.
    return nn.functional.normalize(rows.float(), dim=-1)


def _with_patches(visual: Any, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pooled [n, d] and patch tokens [n, p, d] of an open_clip vision transformer."""
    pooled, tokens = _with_tokens(visual, values)
    return pooled, tokens @ visual.proj


def _with_tokens(visual: Any, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pooled [n, d], and patch tokens [n, p, D] after the last norm, of an open_clip vision transformer."""
    projection = getattr(visual, "proj", None)
    if projection is None or not hasattr(visual, "ln_post") or getattr(visual, "attn_pool", None) is not None:
        raise ValueError(
            f"the image tower {type(visual).__name__} has no patch features in the joint space; "
            "use a ViT without attention pooling, or patches=False"
        )
    found = visual.forward_intermediates(values, indices=1, output_fmt="NLC")
    return found["image_features"], visual.ln_post(found["image_intermediates"][0])

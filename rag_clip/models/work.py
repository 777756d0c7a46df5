"""The work of a model's towers, from its configuration alone: which multiplications a text or an image takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rag_clip.models.open_clip import model_config


@dataclass(frozen=True, slots=True)
class Work:
    """The width `dim` of a model's vectors, and multiplications: of a `token` of a text, and of an `image`.

    A transformer of l layers and width w takes 12 l w^2 for a token; attention among the tokens, which is small at the
    lengths of captions, is not counted. None where the configuration does not say: towers of timm, transformers, and
    convolutions.
    """

    dim: int
    token: float | None
    image: float | None


def work_of(spec: str) -> Work:
    """Return the work of the model `spec` (see `load_encoder`); raises EncoderError for an unknown one."""
    config = model_config(spec)
    text, image = config["text_cfg"], config["vision_cfg"]
    token, per_patch = _per_token(text), _per_token(image)
    size, patch = image.get("image_size", 224), image.get("patch_size")
    sides = size if isinstance(size, list | tuple) else (size, size)
    patches = None if not patch else (sides[0] // patch) * (sides[1] // patch) + 1
    return Work(config["embed_dim"], token, per_patch * patches if per_patch and patches else None)


def _per_token(tower: Mapping[str, Any]) -> float | None:
    """Return 12 l w^2 of a transformer that open_clip builds itself; None for others."""
    layers, width = tower.get("layers"), tower.get("width")
    foreign = tower.get("hf_model_name") or tower.get("timm_model_name")
    return 12.0 * layers * width**2 if isinstance(layers, int) and width and not foreign else None

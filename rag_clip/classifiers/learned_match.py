"""Classification by a matching that the encoder learned, in place of the cosines of pooled features.

    patches:  score_k = s Phi(x, t_k)      PACL (Mukhoti et al., 2023, arXiv 2212.04994), see models.patch_match

Scores depend on image and class together, so what is kept of an image is its similarity with each class: features of
the same images that other runs kept cannot be used, and heads on features cannot be added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch.nn.functional import normalize

from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet
from rag_clip.models.learned_match import patch_match
from rag_clip.models.towers import two_towers
from rag_clip.protocols import Encoder


@dataclass(frozen=True, slots=True, eq=False)
class Similarities:
    """A classifier of similarities [n, c], as `match_classes` has them for features: logits = scale * similarities."""

    labels: LabelSet
    scale: float

    def __call__(self, features: Features) -> torch.Tensor:
        """Return logits [n, c]."""
        return self.scale * features.pooled


class _Matching:
    """The encoder, with similarities to classes as the features of images."""

    def __init__(self, encoder: Encoder, similarities: Callable[[torch.Tensor], torch.Tensor], classes: int) -> None:
        self._encoder, self._similarities, self.dim = encoder, similarities, classes
        self.fingerprint = encoder.fingerprint

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_pixels(self, pixels: torch.Tensor, *, patches: bool = False) -> Features:
        """Return the similarities [n, c] of images as `pooled`."""
        return Features(self._similarities(pixels))


def match_classes(text: ZeroShot, encoder: Encoder) -> tuple[Encoder, Similarities]:
    """Return an encoder whose features of an image are its similarities with the classes, and their classifier.

    text: the classes; their weights [c, d] are normalised.
    encoder: an encoder with a learned matching of patches.

    Raises ValueError for an encoder without one, and as `patch_match` does.
    """
    towers = two_towers(encoder)
    module = patch_match(towers)
    if module is None:
        raise ValueError(
            f"encoder {encoder.name!r} has no learned matching of patches; make one with "
            "`rag-clip adapt PAIRS --objective pacl --lock both`, or match pooled features"
        )
    weights = normalize(text.weights.float(), dim=-1)  # [c, d]
    matching = _Matching(encoder, lambda pixels: module(towers.patch_tokens(pixels), weights), len(weights))
    values = (*module.state_dict().values(), weights)
    digest = hashlib.sha256(b"".join(each.cpu().numpy().tobytes() for each in values)).hexdigest()
    own = hashlib.sha256(f"{encoder.fingerprint.weights} patches {digest}".encode()).hexdigest()
    matching.fingerprint = replace(encoder.fingerprint, weights=own, of_images="")
    return cast(Encoder, matching), Similarities(text.labels, encoder.scale)

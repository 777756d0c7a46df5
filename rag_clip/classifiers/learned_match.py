"""Classification by a matching that the encoder learned, in place of the cosines of pooled features.

    patches:  score_k = s Phi(x, t_k)          PACL (Mukhoti et al., 2023, arXiv 2212.04994), see models.patch_match
    late:     score_k = s sum_j w_j I(x, y_j)  over the texts j of class k, of weights w_j that sum to 1; FILIP
                                               (Yao et al., 2022, arXiv 2111.07783), see models.token_match

Scores depend on image and class together, so what is kept of an image is its similarity with each class: features of
the same images that other runs kept cannot be used, and heads on features cannot be added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch.nn.functional import normalize, pad

from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Prompts
from rag_clip.models.learned_match import patch_match, token_match
from rag_clip.models.token_match import TokenMatch, late_similarities, text_part
from rag_clip.models.towers import TwoTowers, two_towers
from rag_clip.protocols import Encoder

TEXTS_AT_ONCE = 256
OBJECTIVES = {"patches": "pacl --lock both", "late": "filip"}


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

    def __init__(
        self, encoder: Encoder, similarities: Callable[[torch.Tensor], torch.Tensor], classes: int, digest: str
    ) -> None:
        self._encoder, self._similarities, self.dim = encoder, similarities, classes
        own = hashlib.sha256(f"{encoder.fingerprint.weights} {digest}".encode()).hexdigest()
        self.fingerprint = replace(encoder.fingerprint, weights=own, of_images="")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    @torch.no_grad()
    def encode_pixels(self, pixels: torch.Tensor, *, patches: bool = False) -> Features:
        """Return the similarities [n, c] of images as `pooled`."""
        return Features(self._similarities(pixels))


def match_classes(compared: str, text: ZeroShot, prompts: Prompts, encoder: Encoder) -> tuple[Encoder, Similarities]:
    """Return an encoder whose features of an image are its similarities with the classes, and their classifier.

    compared: "patches" or "late".
    text: the classes; for patches their weights [c, d] are normalised.
    prompts: the texts of the classes.
    encoder: an encoder that learned the matching.

    Raises ValueError for an encoder that did not, and as `patch_match` and `token_match`.
    """
    towers, classes = two_towers(encoder), len(text.labels)
    found = patch_match(towers) if compared == "patches" else token_match(towers)
    if found is None:
        kind = "of patches" if compared == "patches" else "of tokens"
        raise ValueError(
            f"encoder {encoder.name!r} has no learned matching {kind}; make one with "
            f"`rag-clip adapt PAIRS --objective {OBJECTIVES[compared]}`, or match pooled features"
        )
    if isinstance(found, TokenMatch):
        late = _Late(towers, found, prompts)
        similarities, values = late.similarities, late.values
    else:
        weights, patches = normalize(text.weights.float(), dim=-1), found  # [c, d]
        values = {**found.state_dict(), "weights": weights}

        def similarities(pixels: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = patches(towers.patch_tokens(pixels), weights)
            return scores

    matching = _Matching(encoder, similarities, classes, f"{compared} {_digest(values)}")
    return cast(Encoder, matching), Similarities(text.labels, encoder.scale)


class _Late:
    """Unit tokens of the distinct texts of prompts, and the weights [c, t] of each class's texts, which sum to 1."""

    def __init__(self, towers: TwoTowers, match: TokenMatch, prompts: Prompts) -> None:
        self._towers, self._match = towers, match
        texts = list(dict.fromkeys(text.text for group in prompts.texts for text in group))
        self._words, self._real = _tokens(towers, match, texts)  # [t, l, e], [t, l]
        rows = {text: row for row, text in enumerate(texts)}
        self._weights = torch.zeros(len(prompts.labels), len(texts))
        for row, group in enumerate(prompts.texts):
            for text in group:
                self._weights[row, rows[text.text]] += text.weight
        self._weights = self._weights.to(towers.device)
        self.values = {**match.state_dict(), "words": self._words, "weights": self._weights}

    def similarities(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self._match.patches(self._towers.patch_tokens(pixels))  # [n, p, e]
        of_images = late_similarities(patches, self._words, self._real)[0]  # [n, t]
        return of_images @ self._weights.T


@torch.no_grad()
def _tokens(towers: TwoTowers, match: TokenMatch, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    parts = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        tokens, real = towers.text_tokens(towers.tokenizer(texts[start : start + TEXTS_AT_ONCE]))
        parts.append((match.words(tokens), text_part(real)))
    longest = max(real.shape[1] for _, real in parts)
    words = torch.cat([pad(each, (0, 0, 0, longest - each.shape[1])) for each, _ in parts])
    return words, torch.cat([pad(real, (0, longest - real.shape[1])) for _, real in parts])


def _digest(values: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(values):
        digest.update(name.encode() + values[name].cpu().numpy().tobytes())
    return digest.hexdigest()

"""Late interaction of patches and text tokens: FILIP (Yao et al., ICLR 2022, arXiv 2111.07783), Wukong's fewer tokens.

    v [n, p, e], y [t, l, e] unit tokens, each the projection of a tower's token after the last norm
    I_ij = mean_r max_q v_ir y_jq          T_ji = mean_q max_r v_ir y_jq          q over the tokens of text j alone

With a reducer (Gu et al., NeurIPS 2022, arXiv 2202.06767) the p patch tokens F [p, D] of an image become q:

    A = softmax_p(W (G1 LN(F)))  [q, p]    v = n(A (G2 F) P)      W [D, q], P [D, e], G1 and G2 block-diagonal [D, D]

Padding is masked; Wukong leaves it as zero vectors, so that no maximum is below 0. The start token is no token of the
text: in a causal tower it has seen nothing, and is the same in all texts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

VALUES_AT_ONCE = 1 << 24  # 64 MiB of cosines


class Reducer(nn.Module):
    """Turns patch tokens [n, p, D] into q tokens [n, q, D]; G2 starts as the identity."""

    def __init__(self, width: int, tokens: int, groups: int) -> None:
        """Raise ValueError for groups that do not divide the width."""
        super().__init__()
        if width % groups:
            raise ValueError(f"patch tokens are {width} wide, which {groups} groups do not divide; give another number")
        self.norm = nn.LayerNorm(width)
        self.mixed = nn.Conv1d(width, width, 1, groups=groups)
        self.chosen = nn.Conv1d(width, tokens, 1)
        self.values = nn.Conv1d(width, width, 1, groups=groups)
        with torch.no_grad():
            block = width // groups
            self.values.weight.copy_(torch.eye(block).repeat(groups, 1)[..., None])
            self.values.bias.zero_()  # type: ignore[union-attr]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return [n, q, D] of tokens [n, p, D]."""
        shown = self.norm(tokens).transpose(1, 2)  # [n, D, p]
        weights = self.chosen(self.mixed(shown)).softmax(-1)  # [n, q, p]
        reduced: torch.Tensor = weights @ self.values(tokens.transpose(1, 2)).transpose(1, 2)
        return reduced


class TokenMatch(nn.Module):
    """Projections [D, e] of patch and text tokens, `image` and `text`, and a `reducer` or none."""

    def __init__(self, image: torch.Tensor, text: torch.Tensor, reducer: Reducer | None = None) -> None:
        """Raise ValueError for projections to different widths."""
        super().__init__()
        if image.shape[1] != text.shape[1]:
            raise ValueError(f"tokens of images would be {image.shape[1]} wide, and those of texts {text.shape[1]}")
        self.image, self.text, self.reducer = nn.Parameter(image), nn.Parameter(text), reducer

    def patches(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return unit tokens [n, p or q, e] of patch tokens [n, p, D]."""
        return normalize((tokens if self.reducer is None else self.reducer(tokens)) @ self.image, dim=-1)

    def words(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return unit tokens [t, l, e] of text tokens [t, l, D]."""
        return normalize(tokens @ self.text, dim=-1)


def late_similarities(
    patches: torch.Tensor, words: torch.Tensor, real: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return I [n, t] and T [t, n] of unit tokens [n, p, e] and [t, l, e], of which `real` bool [t, l] are text.

    Memory is bounded: texts are taken in blocks, whose cosines are computed again for the gradient.
    """
    block = max(1, VALUES_AT_ONCE // max(1, patches.shape[0] * patches.shape[1] * words.shape[1]))
    if len(words) <= block:
        return _interact(patches, words, real)
    parts = []
    for start in range(0, len(words), block):
        some = patches, words[start : start + block], real[start : start + block]
        parts.append(checkpoint(_interact, *some, use_reentrant=False) if torch.is_grad_enabled() else _interact(*some))
    return torch.cat([images for images, _ in parts], dim=1), torch.cat([texts for _, texts in parts])


def _interact(patches: torch.Tensor, words: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    cosines = torch.einsum("ipe,tle->itpl", patches, words)  # [n, t, p, l]
    of_images = cosines.masked_fill(~real[:, None], -torch.inf).amax(3).mean(2)  # [n, t]
    of_texts = cosines.amax(2).masked_fill(~real, 0).sum(2) / real.sum(1)  # [n, t]
    return of_images, of_texts.T


def text_part(real: torch.Tensor) -> torch.Tensor:
    """Return which tokens count, bool [t, l]: those of the text without its start."""
    return real & (torch.arange(real.shape[1], device=real.device) > 0)


def token_match_of(tensors: Mapping[str, torch.Tensor]) -> TokenMatch:
    """Return the module of a state; raises ValueError for tensors that are none."""
    reducer = None
    if "reducer.chosen.weight" in tensors and "reducer.mixed.weight" in tensors:
        tokens, width = tensors["reducer.chosen.weight"].shape[:2]
        reducer = Reducer(width, tokens, width // tensors["reducer.mixed.weight"].shape[1])
    try:
        module = TokenMatch(tensors["image"].clone(), tensors["text"].clone(), reducer)
        module.load_state_dict(dict(tensors))
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"holds no matching of tokens ({reason})") from error
    return module

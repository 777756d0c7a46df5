"""PACL's matching of patches and texts (Mukhoti et al., CVPR 2023, arXiv 2212.04994).

    V_i = F_i W1 + relu(F_i W2) W3     [p, d]      F = patch tokens after the last norm, before the projection  [p, D]
    a_ij = softmax_p(beta n(V_i) t_j)               u_ij = sum_p a_ijp V_ip               Phi_ij = cos(u_ij, t_j)

The patches of an image are pooled anew for every text. `maps` are the cosines n(V_i) t_j of single patches, which show
where in the image a text is true. With W1 = the tower's projection and W3 = 0, V are the projected patch tokens of a
model that was not trained for this. The paper's softmax has beta = 1, which pools unit vectors almost evenly; the
default of 10 is ours.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

BETA = 10.0
VALUES_AT_ONCE = 1 << 24  # 64 MiB of pooled vectors and weights


class PatchMatch(nn.Module):
    """W1 [D, d], W2 [D, h], W3 [h, d] and beta, named `projection`, `hidden`, `output` and `beta`."""

    beta: torch.Tensor

    def __init__(
        self, projection: torch.Tensor, hidden: torch.Tensor, output: torch.Tensor, beta: float | torch.Tensor = BETA
    ) -> None:
        """Raise ValueError for shapes that do not fit."""
        super().__init__()
        width, dim = projection.shape
        if hidden.shape[0] != width or output.shape != (hidden.shape[1], dim):
            shapes = ", ".join(str(tuple(each.shape)) for each in (projection, hidden, output))
            raise ValueError(f"the matrices have shapes {shapes}; expected [D, d], [D, h] and [h, d]")
        self.projection, self.hidden, self.output = (nn.Parameter(each) for each in (projection, hidden, output))
        self.register_buffer("beta", torch.as_tensor(beta, dtype=torch.float32))

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return V [n, p, d] of patch tokens [n, p, D]."""
        return tokens @ self.projection + (tokens @ self.hidden).relu() @ self.output

    def forward(self, tokens: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Return Phi [n, t] of patch tokens [n, p, D] and unit texts [t, d], in blocks of texts."""
        return compare(self.embed(tokens), texts, self.beta)

    def maps(self, tokens: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Return the cosines [n, p, t] of the patches with unit texts [t, d]."""
        return normalize(self.embed(tokens), dim=-1) @ texts.T


def compare(patches: torch.Tensor, texts: torch.Tensor, beta: float | torch.Tensor) -> torch.Tensor:
    """Return Phi [n, t] of patches V [n, p, d] and unit texts [t, d].

    Memory is bounded: texts are taken in blocks, whose pooled vectors are computed again for the gradient.
    """
    count, places, dim = patches.shape
    block = max(1, VALUES_AT_ONCE // max(1, count * (places + dim)))
    if len(texts) <= block:
        return _pool(patches, texts, beta)
    parts = torch.split(texts, block)
    if not torch.is_grad_enabled():
        return torch.cat([_pool(patches, part, beta) for part in parts], dim=1)
    return torch.cat([checkpoint(_pool, patches, part, beta, use_reentrant=False) for part in parts], dim=1)


def _pool(patches: torch.Tensor, texts: torch.Tensor, beta: float | torch.Tensor) -> torch.Tensor:
    weights = (beta * (texts @ normalize(patches, dim=-1).transpose(1, 2))).softmax(-1)  # [n, t, p]
    return (normalize(weights @ patches, dim=-1) * texts).sum(-1)  # [n, t, d] to [n, t]


def start_match(
    projection: torch.Tensor, *, hidden: int | None = None, beta: float = BETA, seed: int = 0
) -> PatchMatch:
    """Return a module that matches as an untrained model does: W1 is the tower's projection [D, d], and W3 is 0.

    W2 [D, h] is random by the seed; h is d if `hidden` is None.
    """
    width, dim = projection.shape
    inner = hidden or dim
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(width, inner, generator=generator) * width**-0.5
    start = projection.detach().float().clone()
    return PatchMatch(start, drawn.to(start.device), torch.zeros(inner, dim, device=start.device), beta)

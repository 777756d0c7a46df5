"""How much a class's captions weigh against its templates, from the evidence and without labels. The rule is ours.

With shares, means m_c and s as in prompts.contrast, t_c the unit vector of the class's templates, and m_c without
caption k written m_c-k:

    known_c = softmax_c'( s cos(t_c, m_c') ) at c                             the templates point to their own captions
    sure_c  = sum_{k of c} share_k softmax_c'( s cos(r_k, m_c'-k) ) at c      captions point to one another
    weight_c = known_c min(weight, 0.25) + (1 - known_c) weight               0 where sure_c < 0.3

A name the encoder knows keeps its templates, at RePE's published weight; one it does not know leans on its captions.
Few or scattered captions, of which each alone would be taken for another class's, are not trusted: a lone caption never
confirms itself. 0.3 was chosen on the micro world's validation photographs (tests/benchmarks/recipes.py).
"""

from __future__ import annotations

import torch

from rag_clip.prompts.contrast import class_means, log_probabilities

KNOWN_WEIGHT = 0.25
LEAST_SURE = 0.3


@torch.no_grad()
def trust(
    templates: torch.Tensor,
    vectors: torch.Tensor,
    classes: torch.Tensor,
    shares: torch.Tensor,
    *,
    scale: float,
    weight: float,
) -> torch.Tensor:
    """Return the weight [c] of the captions of each class, 0 to `weight`.

    `templates` [c, d] and `vectors` [t, d] are unit rows; `classes` [t] and `shares` [t] as in prompts.contrast.
    """
    count = len(templates)
    means = class_means(vectors, classes, shares, count=count)
    known = log_probabilities(templates, torch.arange(count, device=classes.device), means, scale=scale).exp()
    alone = torch.bincount(classes, minlength=count)[classes] == 1
    told = log_probabilities(vectors, classes, means, scale=scale, left_out=shares).exp().masked_fill(alone, 0)
    sure = torch.zeros_like(known).index_add_(0, classes, shares * told)
    weights = known * min(weight, KNOWN_WEIGHT) + (1 - known) * weight
    return weights.masked_fill(sure < LEAST_SURE, 0)

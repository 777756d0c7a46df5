"""Whether the encoder knows the names of a label set, from captions alone, without images or labels.

The rule is ours. A name that the encoder knows lies near what captions say of its class when the name is left out of
them. With t_c the unit vectors of the names in their templates, m_c the mean of the n_c caption vectors [d] of class c,
names left out and weighed by contrast (see prompts.contrast), and c classes in all:

    b_c      = number of names c' with cos(t_c', m_c) > cos(t_c, m_c)             0 where the own name is the nearest
    p_c      = q_c exp(-b_c / tau) / Z + (1 - q_c) / c                            if the name is known
    u        = 1 / c                                                              if it is not: any rank is as likely
    tau      = max(0.7, 0.02 c)      Z = sum_{b < c} exp(-b / tau)
    q_c      = 0.85 n_c / (n_c + 1.5)                                             few captions say little

    K        = the share of known names: the fixed point of K = mean_c K p_c / (K p_c + (1 - K) u), by EM from 1/2

over the classes that have captions. Two kinds of label set are told apart by one number, because a rank alone says
little of a single class: an unknown name is the nearest by chance, and a known one has a bad caption mean now and then.
Known are label sets with K >= 0.8 (docs/decisions.md has what was measured).
"""

from __future__ import annotations

import torch

from rag_clip.prompts.contrast import blocks, class_means, contrast

KNOWN_SHARE = 0.8
ROUNDS = 1000


@torch.no_grad()
def nearer_names(names: torch.Tensor, vectors: torch.Tensor, classes: torch.Tensor, *, scale: float) -> torch.Tensor:
    """Return b [c]: how many names lie nearer to the mean of a class's captions than its own; 0 without captions.

    `names` [c, d] and caption `vectors` [t, d] are unit rows, `classes` [t] is the class of each caption, and `scale`
    is the encoder's.
    """
    count = len(names)
    shares = contrast(vectors, classes, count=count, scale=scale)
    means = class_means(vectors, classes, shares, count=count)
    nearer = torch.zeros(count, dtype=torch.long, device=names.device)
    for rows in blocks(count, count):
        cosines = means[rows] @ names.T  # [c, c] up to the length of each mean, which changes no order
        own = cosines.gather(1, torch.arange(count, device=names.device)[rows, None])
        nearer[rows] = (cosines > own).sum(1)
    return nearer


def known_share(nearer: torch.Tensor, captions: torch.Tensor) -> float:
    """Return K, from 0 (no name is known) to 1, for b [c] and the number of captions [c] of each class.

    Without captions, or with a single class, nothing is learned: K stays 1/2.
    """
    count, found = len(nearer), captions > 0
    if not found.any():
        return 0.5
    spread = max(0.7, 0.02 * count)
    ranks = torch.arange(count, dtype=torch.float64)
    n, b = (column[found].double().cpu() for column in (captions, nearer))
    q = 0.85 * n / (n + 1.5)
    odds = count * q * (-b / spread).exp() / (-ranks / spread).exp().sum() + 1 - q  # p / u
    share = 0.5
    for _ in range(ROUNDS):
        share = float((share * odds / (share * odds + 1 - share)).mean())
    return share

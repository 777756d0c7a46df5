"""Whether the encoder knows the names of a label set, from captions alone, without images or labels.

The rule is ours. A name that the encoder knows lies near what captions say of its class when the name is left out of
them. With t_c the unit vectors of the names in their templates, m_c the mean of the n_c caption vectors [d] of class c,
names left out and weighed by contrast (see prompts.contrast), and c classes in all:

    b_c      = number of names c' with cos(t_c', m_c) > cos(t_c, m_c)             0 where the own name is the nearest
    p_c      = q_c exp(-b_c / tau_c) / Z_c + (1 - q_c) / c                        if the name is known
    u        = 1 / c                                                              if it is not: any rank is as likely
    tau_c    = max(0.7, 0.02 c) (1 + 4 / n_c)      Z_c = sum_{b < c} exp(-b / tau_c)
    q_c      = 0.95 n_c / (n_c + 2)                                               few captions say little

    K        = the share of known names: the fixed point of K = mean_c K p_c / (K p_c + (1 - K) u), by EM from 1/2

over the classes that have captions. A rank says little of a single class, because an unknown name is the nearest by
chance, and a known one has a bad caption mean now and then, so the set decides first: with K >= 0.8 every name counts
as known, and with K <= 0.3 none. Between them none does if the captions describe the classes so well that each is told
from those of other classes by the rest of its own (sure_c of prompts.contrast, 0.75 on average): they beat known names
too. Else a name counts as unknown where its posterior K p_c / (K p_c + (1 - K) u) is below 0.3: a known name that is
taken for unknown loses more than an unknown one that is taken for known. With K <= 0.15, and captions enough to be
sure of it (sum_c log u / p_c is at least 6), the names say nothing at all, and even a single caption is better than its
name. docs/decisions.md has what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rag_clip.prompts.contrast import blocks

KNOWN_SHARE = 0.8
UNKNOWN_SHARE = 0.3
MEANINGLESS_SHARE = 0.15
LEAST_EVIDENCE = 6.0  # nats
LEAST_POSTERIOR = 0.3
DESCRIPTIVE = 0.75
ROUNDS = 1000


@torch.no_grad()
def nearer_names(names: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """Return b [c]: how many of the unit `names` [c, d] lie nearer to the mean of a class's captions than its own.

    `means` [c, d] may have any length; b is 0 for a class without captions, whose mean is zero.
    """
    count = len(names)
    nearer = torch.zeros(count, dtype=torch.long, device=names.device)
    for rows in blocks(count, count):
        cosines = means[rows] @ names.T  # [c, c] up to the length of each mean, which changes no order
        own = cosines.gather(1, torch.arange(count, device=names.device)[rows, None])
        nearer[rows] = (cosines > own).sum(1)
    return nearer


@dataclass(frozen=True, slots=True, eq=False)
class KnownNames:
    """What captions say of the names.

    share: K, the share of known ones.
    known: which count as known, bool [c].
    against: how much likelier the captions are if no name is known than if all are, in nats.
    """

    share: float
    known: torch.Tensor
    against: float = 0.0

    @property
    def meaningless(self) -> bool:
        """Whether next to no name is known, so that any caption is better."""
        return self.share <= MEANINGLESS_SHARE and self.against >= LEAST_EVIDENCE


def known_names(nearer: torch.Tensor, captions: torch.Tensor, *, sure: float = 0.0) -> KnownNames:
    """Decide which names the encoder knows.

    nearer: b of each class, [c].
    captions: how many captions each class has, [c].
    sure: how surely captions of the classes are told apart, from 0 to 1, the mean over classes with several.

    Where names are told apart one by one, one without captions counts as known. Without any caption, or with a single
    class, nothing is learned: K stays 1/2.
    """
    count, found = len(nearer), captions > 0
    if not found.any():
        return KnownNames(0.5, torch.ones(count, dtype=torch.bool))
    n, b = (column[found].double().cpu() for column in (captions, nearer))
    spread = max(0.7, 0.02 * count) * (1 + 4 / n)
    near = (1 - (-1 / spread).exp()) / (1 - (-count / spread).exp()) * (-b / spread).exp()  # exp(-b / tau) / Z
    q = 0.95 * n / (n + 2)
    odds = count * q * near + 1 - q  # p / u
    share = 0.5
    for _ in range(ROUNDS):
        posterior = share * odds / (share * odds + 1 - share)
        share = float(posterior.mean())
    known = torch.ones(count, dtype=torch.bool)
    if share <= UNKNOWN_SHARE or (share < KNOWN_SHARE and sure >= DESCRIPTIVE):
        known[:] = False
    elif share < KNOWN_SHARE:
        known[found.cpu()] = posterior >= LEAST_POSTERIOR
    return KnownNames(share, known, -float(odds.log().sum()))

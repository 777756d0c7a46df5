"""TIP-X: Tip-Adapter with a second affinity, which compares query and support image through the class texts.

    q, S = softmax of f W', F W' at temperature tau        D_ij = KL(q_i || S_j) = sum_c q_ic (log q_ic - log S_jc)
    logits = scale f W + bias + (scale / 100) (alpha exp(-beta (1 - f F')) V + gamma psi(D) V)        psi(D) = a - b D

Udandarao, Gupta and Albanie, ICCV 2023 (arXiv 2211.16198). D is the entropy of q less a cross-entropy, so it takes one
product of [n, c] by [c, m]. tau 0.5 is theirs, for scale 100. psi maps D onto the range of the cosines. In "published"
mode it is the range of -D over the whole matrix of queries, so every call must get the whole test set. In "balanced"
mode the largest divergence gets the smallest cosine, over the support images, once. The result then does not depend on
the batch, and D [n, m] is never computed: with H the entropies of q, and L [c, c] computed in advance,

    psi(D) V = (a + b H) 1'V + b q L        L = log S' V

Votes are those of `cache`; a small class then gains no advantage. The grid is theirs; they give no default for gamma, 5
is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from rag_clip.classifiers.cache import Cache, Mode, affinities_of, build_cache, evenly
from rag_clip.classifiers.evidence import wide
from rag_clip.classifiers.search import Choice, choose, judged_images
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support, Validation
from rag_clip.progress import Report, silent
from rag_clip.protocols import Encoder

ALPHA, BETA, GAMMA, TEMPERATURE = 1.17, 1.0, 5.0, 0.5
ALPHAS = tuple(0.1 + step * (50 - 0.1) / 20 for step in range(20))
BETAS = tuple(1 + step * (50 - 1) / 200 for step in range(200))
GAMMAS = tuple(0.1 + step * (30 - 0.1) / 50 for step in range(50))
FITTED_ON = 2000


@dataclass(frozen=True, slots=True, eq=False)
class TipX:
    """The text classifier, the cache, tau at scale 100, psi as (a, b) or None to fit it to each call, and the settings.

    `mass` [c] is 1'V, and `logs` [c, c] is L. Both logarithms, of q and of S, are taken of c times the value, which
    cancels.
    """

    zero_shot: ZeroShot
    cache: Cache
    temperature: float
    psi: tuple[float, float] | None
    choice: Choice
    mass: torch.Tensor
    logs: torch.Tensor

    @property
    def labels(self) -> LabelSet:
        """The c classes."""
        return self.zero_shot.labels

    def __call__(self, features: Features) -> torch.Tensor:
        """Return logits [n, c] on the device and in the dtype of `features.pooled`; computed in float32 or wider."""
        pooled = wide(features.pooled)
        text, cosines = self.zero_shot(Features(pooled)), self.cache.cosines(pooled)
        votes = self.choice.gamma * self.text_votes(text, cosines)
        votes += self.choice.alpha * self.cache.count(affinities_of(cosines, self.choice.beta))
        return self.cache.decide(self.zero_shot.scale / 100 * votes, text).to(features.pooled.dtype)

    def text_votes(self, text: torch.Tensor, cosines: torch.Tensor) -> torch.Tensor:
        """Return psi(D) V [n, c] for queries with text logits [n, c] and cosines [n, m]."""
        if self.psi is None:
            return self.cache.count(self.text_affinities(text, cosines))
        a, b = self.psi
        q, certainty = _signatures(text, self.temperature)  # [n, c], [n, 1]
        return (a - b * certainty) * self.mass.to(q) + b * (q @ self.logs.to(q))

    def text_affinities(self, text: torch.Tensor, cosines: torch.Tensor) -> torch.Tensor:
        """Return psi(D) [n, m] for queries with text logits [n, c] and cosines [n, m]."""
        divergences = self.divergences(text, self.zero_shot(Features(self.cache.keys.to(text))))
        a, b = self.psi or _published(divergences, cosines)
        return a - b * divergences

    def divergences(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Return KL(q || S) [n, m] of the signatures of text logits [n, c] and [m, c]."""
        q, certainty = _signatures(queries, self.temperature)
        return torch.addmm(certainty, q, _log_signatures(keys, self.temperature).T, alpha=-1)


@dataclass(frozen=True, slots=True)
class TipXSettings:
    """The weights, chosen as for Tip-Adapter if None, tau at scale 100, and how votes are counted.

    Raises ValueError for a temperature that is not positive.
    """

    alpha: float | None = None
    beta: float | None = None
    gamma: float | None = None
    temperature: float = TEMPERATURE
    mode: Mode = "balanced"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"the temperature of the signatures is {self.temperature}; it must be above zero")

    @torch.no_grad()
    def build(
        self,
        zero_shot: ZeroShot,
        support: Support,
        *,
        validation: Validation | None = None,
        encoder: Encoder | None = None,
        report: Report = silent,
    ) -> TipX:
        """Build TIP-X; raises ValueError if support or validation do not fit the classifier."""
        alpha, beta, gamma, temperature = self.alpha, self.beta, self.gamma, self.temperature
        default = Choice(
            ALPHA if alpha is None else alpha,
            BETA if beta is None else beta,
            GAMMA if gamma is None else gamma,
            by="given",
        )
        cache = build_cache(zero_shot, support, mode=self.mode)
        logs = _log_signatures(zero_shot(Features(cache.keys)), temperature).T @ cache.votes  # [c, c]
        head = TipX(zero_shot, cache, temperature, None, default, cache.votes.sum(0), logs)
        if self.mode == "balanced":
            head = replace(head, psi=_fit(head))
        if None not in (alpha, beta, gamma):
            return head
        judged = judged_images(zero_shot, support, validation)
        if judged is None:
            return replace(head, choice=replace(default, by="default"))
        choice = choose(
            judged,
            head.cache,
            scale=zero_shot.scale,
            alphas=ALPHAS if alpha is None else (alpha,),
            betas=BETAS if beta is None else (beta,),
            gammas=GAMMAS if gamma is None else (gamma,),
            text=head.text_affinities(judged.logits, head.cache.cosines(judged.features)),
        )
        return replace(head, choice=choice)


def _signatures(text: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return signatures q [n, c], and log c less their entropy [n, 1]: sum_c q log(c q)."""
    logs = _log_signatures(text, temperature)
    q = logs.exp() / logs.shape[1]
    return q, (q * logs).sum(1, keepdim=True)


def _log_signatures(text: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return log(c q) [n, c]: near zero for signatures near uniform, where log q would round D away."""
    sharp = text / (100 * temperature)
    centred = sharp - sharp.mean(1, keepdim=True)
    return centred - centred.expm1().mean(1, keepdim=True).log1p()


def _fit(head: TipX) -> tuple[float, float]:
    keys = head.cache.keys[evenly(len(head.cache.keys), FITTED_ON, head.cache.keys.device)]
    apart = ~torch.eye(len(keys), dtype=torch.bool, device=keys.device)  # no query is a support image
    text = head.zero_shot(Features(keys))
    cosines, divergences = (keys @ keys.T)[apart], head.divergences(text, text)[apart]
    slope = _slope(cosines, divergences)
    return (slope * float(divergences.max()) + float(cosines.min()), slope) if slope else (0.0, 0.0)


def _published(divergences: torch.Tensor, cosines: torch.Tensor) -> tuple[float, float]:
    slope = _slope(cosines, divergences)
    return slope * float(divergences.min()) - float(cosines.min()), slope


def _slope(cosines: torch.Tensor, divergences: torch.Tensor) -> float:
    if divergences.numel() == 0 or not divergences.max() > divergences.min():
        return 0.0
    return float((cosines.max() - cosines.min()) / (divergences.max() - divergences.min()))

"""CoMo: the caches of several encoders, blended per image by how well each agrees with the text.

    p_v = exp(-beta (1 - f_v F_v')) V          f_v [n, d_v], keys F_v [m, d_v] of encoder v, votes V [m, c] of `cache`
    z(p) = (p - mean_k p_k) / std_k p_k        over the classes k, std with c - 1 in the denominator
    w = softmax_v( sharpness * corr_v )        corr_v = z(p_v) . z(text) / (c - 1), Pearson's correlation
    logits = scale f W + bias + (scale / 100) alpha sum_v w_v z(p_v)

CoMo (Zhang et al., 2022, arXiv 2209.12255), the CLIP and DINO part of CaFo (CVPR 2023, arXiv 2303.02151).

The authors weight encoders by the dot product z(p_v) . z(text), which is a sharpness of c - 1. That grows with the
number of classes: an encoder whose correlation is higher by 0.01 gets the weight 0.52 with ten classes and 0.99995 with
a thousand, which switches the other encoder off. mode="published" keeps the authors' sharpness. Otherwise the sharpness
is 1 (the correlation itself), and only classes with support are standardised; the others keep their text logit and its
probability (`evidence.among`). If alpha and beta are not given, they are chosen as in `search`; without images to
choose on, alpha is 0.6 (CaFo's value for ImageNet with 16 shots) and beta 1.

CoMo-F trains the keys of all encoders together on the support images, as Tip-Adapter-F does. The authors alternate
between shots and generated images; here they are one set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from rag_clip.classifiers.cache import Cache, Mode, affinities_of, build_cache
from rag_clip.classifiers.evidence import cross_entropy, wide
from rag_clip.classifiers.search import Choice, Judged, count_right, judged_images
from rag_clip.classifiers.tip_adapter import PUBLISHED_SCHEDULE, accuracy, key_loss
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support, Validation
from rag_clip.progress import Report, silent
from rag_clip.protocols import Encoder
from rag_clip.training.loop import Rows, Schedule, train

ALPHA, BETA = 0.6, 1.0
ALPHAS = tuple(0.1 * 1.3**step for step in range(30))
BETAS = tuple(0.1 * 1.2**step for step in range(40))
MAIN = ""


@dataclass(frozen=True, slots=True, eq=False)
class CoMo:
    """The text classifier, one cache per encoder name ("" is the classifier's own encoder), and the settings.

    `trained` is true if the keys were trained.
    """

    zero_shot: ZeroShot
    caches: Mapping[str, Cache]
    choice: Choice
    sharpness: float
    trained: bool = False

    @property
    def labels(self) -> LabelSet:
        """The c classes."""
        return self.zero_shot.labels

    @property
    def parameters(self) -> int:
        """The number of trained values: the keys of all encoders, or 0 if the keys were not trained."""
        return sum(cache.keys.numel() for cache in self.caches.values()) if self.trained else 0

    def __call__(self, features: Features) -> torch.Tensor:
        """Return logits [n, c] on the device and in the dtype of `features.pooled`; computed in float32 or wider.

        Raises ValueError if `features.others` lacks an encoder of the support set.
        """
        text = self.zero_shot(Features(wide(features.pooled)))
        cosines = cosines_of(self.caches, features)
        votes = [cache.count(affinities_of(cosines[name], self.choice.beta)) for name, cache in self.caches.items()]
        blended = blend(text, votes, sharpness=self.sharpness, held=self.caches[MAIN].relative)
        added = self.choice.alpha * self.zero_shot.scale / 100 * blended
        return self.caches[MAIN].decide(added, text).to(features.pooled.dtype)


@dataclass(frozen=True, slots=True)
class CoMoSettings:
    """The settings of CoMo: alpha and beta (chosen if not given), the sharpness, and how votes are counted (`cache`).

    A `sharpness` of None means 1, or c - 1 with mode="published".
    """

    alpha: float | None = None
    beta: float | None = None
    sharpness: float | None = None
    mode: Mode = "balanced"

    def build(
        self,
        zero_shot: ZeroShot,
        support: Support,
        *,
        validation: Validation | None = None,
        encoder: Encoder | None = None,
        report: Report = silent,
    ) -> CoMo:
        """Blend the caches of the classifier's encoder and of every encoder in `support.others`.

        Raises ValueError if support or validation do not fit the classifier, or lack features of a further encoder.
        """
        if not support.others:
            raise ValueError(
                "CoMo needs support features by a further encoder, and found none; encode them with one more"
            )
        for name, values in support.others.items():
            if not bool(values.isfinite().all()):
                raise ValueError(f"the support features by {name!r} are not finite; encode its images again")
        main = build_cache(zero_shot, support, mode=self.mode)
        caches = {MAIN: main, **{name: replace(main, keys=values.float()) for name, values in support.others.items()}}
        sharpness = self.sharpness
        if sharpness is None:
            sharpness = len(support.labels) - 1.0 if self.mode == "published" else 1.0
        start = CoMo(zero_shot, caches, Choice(ALPHA, BETA, by="default"), sharpness)
        judged = judged_images(zero_shot, support, validation)
        return _chosen(start, judged, support, validation, self.alpha, self.beta)


@dataclass(frozen=True, slots=True)
class CoMoFSettings:
    """The settings of CoMo, and the schedule that trains the keys of all encoders."""

    alpha: float | None = None
    beta: float | None = None
    sharpness: float | None = None
    mode: Mode = "balanced"
    schedule: Schedule = PUBLISHED_SCHEDULE

    def build(
        self,
        zero_shot: ZeroShot,
        support: Support,
        *,
        validation: Validation | None = None,
        encoder: Encoder | None = None,
        report: Report = silent,
    ) -> CoMo:
        """Build CoMo and train the keys of all encoders; with validation, alpha and beta are then chosen again.

        In "balanced" mode an image does not vote for itself during training. Raises ValueError as CoMo does.
        """
        untrained = CoMoSettings(self.alpha, self.beta, self.sharpness, self.mode)
        start = untrained.build(zero_shot, support, validation=validation)
        keys = {name: cache.keys.double().requires_grad_() for name, cache in start.caches.items()}
        learning = {name: replace(start.caches[name], keys=values) for name, values in keys.items()}
        training = replace(start, caches=learning)
        train(
            list(keys.values()),
            _loss(training, support, self.mode),
            Rows(len(support)),
            schedule=self.schedule,
            validate=None if validation is None else lambda: accuracy(training, validation),
            report=report,
        )
        caches = {name: replace(start.caches[name], keys=values.detach().float()) for name, values in keys.items()}
        trained = replace(start, caches=caches, trained=True)
        if validation is None:
            return trained
        judged = judged_images(zero_shot, support, validation)
        return _chosen(trained, judged, support, validation, self.alpha, self.beta)


def blend(
    text: torch.Tensor, votes: Sequence[torch.Tensor], *, sharpness: float, held: torch.Tensor | None = None
) -> torch.Tensor:
    """Standardise the votes [n, c] of each encoder, and sum them by their agreement with the text logits [n, c].

    With `held`, bool [c], only those classes count, and the others get zero.
    """
    classes = text.shape[1] if held is None else int(held.sum())
    reference = _standardise(text, held)  # [n, c]
    standardised = torch.stack([_standardise(values, held) for values in votes])  # [v, n, c]
    agreement = (standardised * reference).sum(2) / max(1, classes - 1)  # [v, n]
    return ((sharpness * agreement).softmax(0)[:, :, None] * standardised).sum(0)  # [n, c]


def cosines_of(caches: Mapping[str, Cache], features: Features) -> dict[str, torch.Tensor]:
    """Return the cosines [n, m] of images to the keys of each encoder; raises ValueError for an encoder without
    features.
    """
    lacking = [name for name in caches if name != MAIN and name not in features.others]
    if lacking:
        found = ", ".join(features.others) or "none"
        raise ValueError(
            f"CoMo needs features of the images by {', '.join(lacking)}, and found {found} beside the main encoder's; "
            "encode the images with the same further encoders as the support set"
        )
    return {
        name: cache.cosines(wide(features.pooled if name == MAIN else features.others[name]))
        for name, cache in caches.items()
    }


def _standardise(values: torch.Tensor, held: torch.Tensor | None) -> torch.Tensor:
    kept = torch.ones_like(values[0]) if held is None else held.to(values)  # [c]
    count = kept.sum()
    centred = (values - (values @ kept)[:, None] / count) * kept  # [n, c]
    deviation = (centred.square().sum(1) / (count - 1).clamp(min=1)).sqrt()  # [n]
    least = 1e-6 * (values.abs() * kept).amax(1)  # votes that are equal up to rounding must give 0
    return torch.where((deviation > least)[:, None], centred / deviation.clamp(min=1e-30)[:, None], 0.0)


@torch.no_grad()
def _chosen(
    start: CoMo,
    judged: Judged | None,
    support: Support,
    validation: Validation | None,
    alpha: float | None,
    beta: float | None,
) -> CoMo:
    if alpha is not None and beta is not None:
        return replace(start, choice=Choice(alpha, beta))
    if judged is None:
        choice = Choice(ALPHA if alpha is None else alpha, BETA if beta is None else beta, by="default")
        return replace(start, choice=choice)
    factor = start.zero_shot.scale / 100
    cosines = cosines_of(start.caches, _features_of(judged, support, validation))
    alphas, betas = ALPHAS if alpha is None else (alpha,), BETAS if beta is None else (beta,)
    best, most, lowest = Choice(alphas[0], betas[0]), -1, float("inf")
    for candidate in betas:
        votes = [
            cache.count(affinities_of(cosines[name], candidate) * judged.allowed, judged.share)
            for name, cache in start.caches.items()
        ]
        blended = blend(judged.logits, votes, sharpness=start.sharpness, held=start.caches[MAIN].relative)
        counts = count_right(judged.logits / factor, blended, judged.targets, alphas)
        for row in (counts == counts.max()).nonzero()[:, 0].tolist() if int(counts.max()) >= most else []:
            loss = cross_entropy(judged.logits + factor * alphas[row] * blended, judged.targets)
            if int(counts[row]) > most or loss < lowest:
                most, lowest = int(counts[row]), loss
                best = Choice(alphas[row], candidate, by=judged.by, accuracy=most / len(judged.targets))
    return replace(start, choice=best)


def _features_of(judged: Judged, support: Support, validation: Validation | None) -> Features:
    if validation is not None:
        return replace(validation.features, pooled=judged.features)
    rows = (judged.allowed == 0).nonzero()[:, 1]  # exactly one zero per row: the image itself
    return Features(judged.features, others={name: values[rows] for name, values in support.others.items()})


def _loss(training: CoMo, support: Support, mode: Mode) -> Callable[[torch.Tensor], torch.Tensor]:
    features = Features(
        support.features.double(), others={name: values.double() for name, values in support.others.items()}
    )
    text = training.zero_shot(Features(features.pooled))
    factor, held = training.choice.alpha * training.zero_shot.scale / 100, training.caches[MAIN].relative

    def logits(rows: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        drawn = Features(features.pooled[rows], others={name: v[rows] for name, v in features.others.items()})
        votes = [
            training.caches[name].count(affinities_of(cosines, training.choice.beta) * allowed)
            for name, cosines in cosines_of(training.caches, drawn).items()
        ]
        return text[rows] + factor * blend(text[rows], votes, sharpness=training.sharpness, held=held)

    return key_loss(support, mode, logits)

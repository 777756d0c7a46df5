"""CoOp: the words around a class name are learned as vectors, through the frozen text tower.

    w_c = normalise(E([start, v_1 .. v_M, name_c, ".", end]))      logits = scale f W + bias

Zhou et al., IJCV 2022 (arXiv 2109.01134): cross-entropy on few labelled images, with gradients into v alone; the forms
of v are in `contexts`. Defaults are the authors': M = 16 drawn from N(0, 0.02^2), shared by all classes, the name at
the end, SGD 2e-3, momentum 0.9, weight decay 5e-4, batches of 32, one epoch at 1e-5 and then a cosine (here per step);
50 epochs for one image per class, 100 for up to four, 200 above; the last epoch is kept.

Differences: images are given as features, so they are not cropped anew in each epoch. v is float32 whatever the tower's
precision. In "balanced" mode the images of each class have the same total weight; if all classes have equally many
images, that is the published loss. A class without images is left out of the loss and keeps its text, because the loss
could only push it away from every image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch
from torch.nn import functional

from rag_clip.classifiers.cache import Mode
from rag_clip.classifiers.contexts import Context, prompt_tokens, start_vectors
from rag_clip.classifiers.evidence import Evidence, Held, gather_evidence, hold_out
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support, Validation
from rag_clip.files.learned_prompts import LearnedPrompts, check_learned_encoder
from rag_clip.models.towers import TwoTowers, two_towers
from rag_clip.progress import Report, silent
from rag_clip.protocols import Encoder
from rag_clip.training.loop import Rows, Schedule, train


@dataclass(frozen=True, slots=True, eq=False)
class CoOp:
    """The learned prompts, for `write_learned_prompts`, and the classifier `learned` from their class vectors."""

    learned: ZeroShot
    prompts: LearnedPrompts

    @property
    def labels(self) -> LabelSet:
        """The c classes."""
        return self.learned.labels

    @property
    def parameters(self) -> int:
        """The number of trained values: those of the context."""
        return self.prompts.context.numel()

    def __call__(self, features: Features) -> torch.Tensor:
        """Return logits [n, c] on the device and in the dtype of `features.pooled`."""
        return self.learned(features)


@dataclass(frozen=True, slots=True)
class CoOpSettings:
    """The context, how images are weighted, and the schedule; by default as published (`published_schedule`).

    `schedule.seed` is also the seed of the initial context.
    """

    context: Context | None = None
    mode: Mode = "balanced"
    schedule: Schedule | None = None

    def build(
        self,
        zero_shot: ZeroShot,
        support: Support,
        *,
        validation: Validation | None = None,
        encoder: Encoder | None = None,
        report: Report = silent,
    ) -> CoOp:
        """Learn a context on support images, through the text tower of `encoder`; validation chooses the epoch.

        Raises ValueError if support or validation do not fit the classifier, if a name is too long to leave room for
        the context, and without an encoder.
        """
        if encoder is None:
            raise ValueError("coop trains texts through an encoder; name the model")
        context, schedule = self.context or Context(), self.schedule or published_schedule(support)
        evidence = gather_evidence(zero_shot, support)
        learner = start_learner(two_towers(encoder), zero_shot, evidence.present, context, schedule.seed)
        if bool(evidence.present.any()):
            judged = None if validation is None else hold_out(zero_shot, validation, evidence.present)
            train(
                [learner.vectors],
                _loss(learner, evidence, self.mode),
                Rows(len(evidence.images)),
                schedule=schedule,
                validate=None if judged is None else lambda: _accuracy(learner, judged),
                report=report,
            )
        weights = learner.all_weights()
        provenance = {
            "encoder": asdict(encoder.fingerprint),
            "method": "coop",
            "settings": {"context": asdict(context), "mode": self.mode, "schedule": asdict(schedule)},
            "support": dict(support.provenance),
        }
        prompts = LearnedPrompts(zero_shot.labels, weights, learner.vectors.detach(), context.position, provenance)
        return CoOp(replace(zero_shot, weights=weights), prompts)


def published_schedule(support: Support) -> Schedule:
    """Return the authors' schedule; the epochs depend on the mean number of images of the classes that have any."""
    shots = len(support) / (len(support.labels) - len(support.missing))
    epochs = 50 if shots < 2 else 100 if shots <= 4 else 200
    return Schedule(epochs, 32, 2e-3, "sgd", weight_decay=5e-4, warm_up=1)


@torch.no_grad()
def learned_zero_shot(prompts: LearnedPrompts, encoder: Encoder, *, labels: LabelSet | None = None) -> ZeroShot:
    """Return the classifier of learned prompts: with their own class vectors, or a shared context around other names.

    Raises ValueError for another encoder, and for other names if each class has its own context, or if the prompts
    have visual ones (see models.visual_prompts), which are of their classes.
    """
    check_learned_encoder(prompts, encoder.fingerprint)
    if prompts.visual and labels is not None and labels.names != prompts.labels.names:
        raise ValueError("the visual prompts were learned for their own classes; use their names, or learn others")
    if labels is None or labels.names == prompts.labels.names:
        weights = prompts.weights.to(encoder.device)
    elif prompts.shared:
        towers = two_towers(encoder)
        tokens = prompt_tokens(towers, labels.names, length=len(prompts.context), position=prompts.position)
        weights = towers.encode_tokens(tokens, prompts.context.to(encoder.device))
    else:
        raise ValueError(
            "each class has a learned context of its own, which other names cannot use; learn a shared one"
        )
    return ZeroShot(labels or prompts.labels, weights, float(encoder.scale), float(encoder.bias))


@dataclass(frozen=True, slots=True, eq=False)
class Learner:
    """A context in training: its `vectors`, the classes with images `held`, bool [c], their `tokens` [h, context]."""

    encoder: TwoTowers
    zero_shot: ZeroShot
    held: torch.Tensor
    tokens: torch.Tensor
    vectors: torch.Tensor

    def weights(self) -> torch.Tensor:
        """Return the class vectors [h, d] of the classes with images."""
        return self.encoder.encode_tokens(self.tokens, self.vectors.flatten(0, -2))

    @torch.no_grad()
    def all_weights(self) -> torch.Tensor:
        """Return the class vectors [c, d]; classes without images have those of their text."""
        weights = self.zero_shot.weights.float().clone()
        if len(self.tokens):
            weights[self.held.to(weights.device)] = self.weights().to(weights.device)
        return weights


def start_learner(
    encoder: TwoTowers, zero_shot: ZeroShot, present: torch.Tensor, context: Context, seed: int
) -> Learner:
    """Return the context before training, for the classes `present`, bool [c]; drawn by the seed."""
    names = zero_shot.labels.names
    vectors = start_vectors(encoder, context, names, seed=seed)
    tokens = prompt_tokens(
        encoder, names, length=vectors.shape[-2], position=context.position, per_class=context.per_class
    )
    return Learner(encoder, zero_shot, present, tokens[present.cpu()], vectors.requires_grad_())


def _loss(learner: Learner, evidence: Evidence, mode: Mode) -> Callable[[torch.Tensor], torch.Tensor]:
    device, fit = learner.vectors.device, support_loss(evidence, mode, learner.vectors.device)
    features = evidence.images.float().to(device)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        rows = rows.to(device)
        return fit(learner.zero_shot.scale * features[rows] @ learner.weights().T, rows)

    return loss


def support_loss(
    evidence: Evidence, mode: Mode, device: torch.device
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the cross-entropy of logits [b, h] of the support images `rows` [b] over the h classes that have any."""
    shares = evidence.shares[:, evidence.present]  # [m, h]
    importance = (shares / evidence.mass[evidence.present] if mode == "balanced" else shares).sum(1)  # [m]
    importance = (importance / importance.mean()).float().to(device)
    targets = (shares / shares.sum(1, keepdim=True)).float().to(device)

    def loss(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return (importance[rows] * functional.cross_entropy(logits, targets[rows], reduction="none")).mean()

    return loss


def _accuracy(learner: Learner, judged: Held) -> float:
    logits = replace(learner.zero_shot, weights=learner.all_weights())(Features(judged.images))
    return float((logits.argmax(1) == judged.targets.argmax(1)).float().mean())

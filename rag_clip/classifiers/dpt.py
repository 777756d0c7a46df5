"""DPT: a context around class names and visual prompts in the image tower, learned together through frozen towers.

    w = class vectors of the learned context [c, d]        f = image features with visual prompts, f0 without [n, d]
    loss = CE(s f w') + alpha CE(LayerNorm(o) C, y)        o and the prompts: see models.visual_prompts
    first epochs: CE(s f0 w') + CE(s f w0') + 0.1 CE(s f w') + alpha CE(LayerNorm(o) C, y)      w0: the texts

Xing et al., IEEE TMM 2023 (arXiv 2208.08340). C is a classifier for each class-aware block, dropped after training; its
loss is over the tokens whose class is that of the image, so an image whose class is not among its K has none. Defaults
are the authors': 16 context vectors, r = 10, K = 10, class-aware tokens before the last block, alpha 0.3 (their script;
their configuration has 1.0), SGD 0.01 with ten epochs at 1e-5 first, momentum 0.9, weight decay 5e-4, batches of 32; 60
epochs for one image per class, the first 30 guided. 100 epochs for more images are from their configuration. The last
epoch is kept.

Differences: images are given as pixels, so they are not cropped anew in each epoch, and f0 is computed once. The
context learns at a fifth of the rate of the visual prompts, theirs of 0.002 to 0.01, on the same schedule (theirs has
one epoch of warm-up). Class vectors are unit rows where they enter the visual prompts. Images are weighted, and classes
without images kept, as in `classifiers.coop`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn
from torch.nn import functional

from rag_clip.classifiers.cache import Mode
from rag_clip.classifiers.contexts import DEVIATION, Context, draw_normal
from rag_clip.classifiers.coop import Learner, start_learner, support_loss
from rag_clip.classifiers.evidence import Evidence, gather_evidence, hold_out
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support, Validation
from rag_clip.files.learned_prompts import LearnedPrompts
from rag_clip.models.towers import two_towers
from rag_clip.models.visual_prompts import VisualPrompts, prompted, start_visual_prompts
from rag_clip.progress import Report, silent
from rag_clip.protocols import Encoder
from rag_clip.training.loop import Rows, Schedule, Step, train

JOINT = 0.1  # weight of the joint loss in guided epochs


@dataclass(frozen=True, slots=True, eq=False)
class DPT:
    """The learned prompts and their classifier `learned`, for image features of the encoder `tower`."""

    learned: ZeroShot
    prompts: LearnedPrompts
    tower: Encoder

    @property
    def labels(self) -> LabelSet:
        """The c classes."""
        return self.learned.labels

    @property
    def parameters(self) -> int:
        """The number of learned values that are kept: those of the context and of the visual prompts."""
        fixed = ("texts", "classes", "top")
        visual = (value.numel() for name, value in self.prompts.visual.items() if name not in fixed)
        return self.prompts.context.numel() + sum(visual)

    def __call__(self, features: Features) -> torch.Tensor:
        """Return logits [n, c] of features of `tower`; those of the frozen image tower mean something else."""
        return self.learned(features)


@dataclass(frozen=True, slots=True)
class DPTSettings:
    """The sizes of the prompts, the loss and the schedule; by default as published.

    context: the context around the names.
    length: r, learned tokens of a block.
    top: K, class-aware tokens of a block, at most one a class; 0 for none.
    first: b, the first block of class-aware tokens, from 1; the last block by default.
    alpha: weight of the loss of the class-aware tokens.
    guided: number of epochs (steps, if the schedule counts in steps) in which each modality is first fitted to the
        frozen other.
    text_rate: learning rate of the context, as a share of that of the visual prompts.
    mode: how images are weighted.
    schedule: by default `published_schedule`; its seed is that of every start.

    Raises ValueError for numbers below zero.
    """

    context: Context | None = None
    length: int = 10
    top: int = 10
    first: int | None = None
    alpha: float = 0.3
    guided: int = 30
    text_rate: float = 0.2
    mode: Mode = "balanced"
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        numbers = {name: getattr(self, name) for name in ("length", "top", "alpha", "guided", "text_rate")}
        for name, number in numbers.items():
            if not number >= 0:
                raise ValueError(f"{name} is {number}; give a number from 0")

    def build(
        self,
        zero_shot: ZeroShot,
        support: Support,
        *,
        validation: Validation | None = None,
        encoder: Encoder | None = None,
        report: Report = silent,
    ) -> DPT:
        """Learn a context and visual prompts on the pixels of support images, through both towers of `encoder`.

        Validation images are checked, and choose nothing: the last epoch is kept. Raises ValueError as `CoOpSettings`,
        for support without pixels, and for an image tower without blocks.
        """
        if encoder is None:
            raise ValueError("dpt trains prompts through an encoder; name the model")
        towers, schedule = two_towers(encoder), self.schedule or published_schedule(support)
        evidence = gather_evidence(zero_shot, support)
        if validation is not None:
            hold_out(zero_shot, validation, evidence.present)
        if support.pixels is None:
            raise ValueError("dpt changes the image tower and must see each image of the support; give their pixels")
        seen = bool(evidence.present.any())
        visual = start_visual_prompts(
            towers,
            zero_shot.weights,
            length=self.length if seen else 0,
            top=self.top if seen else 0,
            first=self.first,
            seed=schedule.seed,
        )
        context = self.context or Context()
        learner = start_learner(towers, zero_shot, evidence.present, context, schedule.seed)
        if seen:
            self._train(learner, visual, evidence, support.pixels[support.relevance.cpu() > 0], schedule, report)
        weights = learner.all_weights()
        visual.classes.copy_(weights)
        settings = {**asdict(self), "context": asdict(context), "schedule": asdict(schedule)}
        provenance = {
            "encoder": asdict(encoder.fingerprint),
            "method": "dpt",
            "settings": settings,
            "support": dict(support.provenance),
        }
        visual.requires_grad_(False)
        prompts = LearnedPrompts(
            zero_shot.labels, weights, learner.vectors.detach(), context.position, provenance, visual.state_dict()
        )
        return DPT(replace(zero_shot, weights=weights), prompts, prompted(towers, visual))

    def _train(
        self,
        learner: Learner,
        visual: VisualPrompts,
        evidence: Evidence,
        pixels: torch.Tensor,
        schedule: Schedule,
        report: Report,
    ) -> None:
        names, width = learner.zero_shot.labels.names, visual.prompts.shape[-1]
        auxiliary = _Auxiliary(len(visual.generators), width, names, schedule.seed).to(learner.vectors.device)
        loss = _loss(learner, visual, auxiliary, evidence, pixels, self)
        guided, steps, share = self.guided, 0, self.text_rate
        if schedule.steps is None:
            guided *= math.ceil(math.ceil(len(pixels) / schedule.batch_size) / schedule.accumulate)

        def count(step: Step) -> None:
            nonlocal steps
            steps = step.number

        hook = learner.vectors.register_hook(lambda gradient: share * gradient)  # type: ignore[no-untyped-call]
        train(
            [learner.vectors, *visual.parameters(), *auxiliary.parameters()],
            lambda rows: loss(rows, steps < guided),
            Rows(len(pixels)),
            schedule=schedule,
            after=count,
            report=report,
        )
        hook.remove()


def published_schedule(support: Support) -> Schedule:
    """Return the authors' schedule; the epochs depend on the mean number of images of the classes that have any."""
    shots = len(support) / (len(support.labels) - len(support.missing))
    return Schedule(60 if shots < 2 else 100, 32, 0.01, "sgd", weight_decay=5e-4, warm_up=10)


class _Auxiliary(nn.Module):
    """LayerNorm(o) C for each class-aware block; the row of a class depends on its name, not on its place."""

    def __init__(self, blocks: int, width: int, names: Sequence[str], seed: int) -> None:
        super().__init__()
        spread = (3 * width) ** -0.5 / DEVIATION  # the variance of torch's linear layers
        rows = [
            torch.cat([spread * draw_normal(1, width, f"{seed} {block} {name}") for name in names])
            for block in range(blocks)
        ]
        self.rows = nn.ParameterList(nn.Parameter(each) for each in rows)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in rows)

    def forward(self, attended: Sequence[torch.Tensor], of_class: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of the o [n, K, D] of each block where `of_class` [n, K]; `targets` [n] are classes."""
        logits = [norm(o)[of_class] @ rows.T for norm, rows, o in zip(self.norms, self.rows, attended, strict=True)]
        repeated = targets[:, None].expand_as(of_class)[of_class].repeat(len(logits))
        return functional.cross_entropy(torch.cat(logits), repeated)


def _loss(
    learner: Learner,
    visual: VisualPrompts,
    auxiliary: _Auxiliary,
    evidence: Evidence,
    pixels: torch.Tensor,
    settings: DPTSettings,
) -> Callable[[torch.Tensor, bool], torch.Tensor]:
    device, text, present = learner.vectors.device, learner.zero_shot, evidence.present
    fit = support_loss(evidence, settings.mode, device)
    frozen = evidence.images.float().to(device)  # [m, d]
    texts = text.weights.float().to(device)  # [c, d]
    ranked, targets = visual.rank(frozen), evidence.shares.argmax(1).to(device)  # [m, K], [m]
    of_class, held = ranked == targets[:, None], present.to(device)  # [m, K], [c]
    towers = learner.encoder

    def loss(rows: torch.Tensor, guided: bool) -> torch.Tensor:
        rows, weights = rows.to(device), learner.weights()  # [b], [h, d]
        images, attended = frozen[rows], list[torch.Tensor]()
        if not visual.changes_nothing:
            classes = texts.clone()
            classes[held] = weights
            images, attended = visual.embed(towers, pixels[rows.cpu()], ranked[rows], classes)
        total = fit(text.scale * images @ weights.T, rows)
        if guided:
            apart = fit(text.scale * frozen[rows] @ weights.T, rows) + fit(text.scale * images @ texts[held].T, rows)
            total = apart + JOINT * total
        if attended and bool(of_class[rows].any()):
            total = total + settings.alpha * auxiliary(attended, of_class[rows], targets[rows])
        return total

    return loss

"""Adapt an encoder to pairs or labelled images: an objective, a lock and a schedule, in the one training loop."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from rag_clip.data import Fingerprint
from rag_clip.models.folder import weights_file
from rag_clip.models.towers import TwoTowers
from rag_clip.progress import ProgressEvent, Report, silent
from rag_clip.training.batches import Batch, Batches, Examples, Head, Kept, Views
from rag_clip.training.checkpoint import Checkpoint
from rag_clip.training.contrast import same_pairs
from rag_clip.training.loop import Schedule, Step, train
from rag_clip.training.objective import Needs, Objective, Setting
from rag_clip.training.towers import Lock, Towers, unlocked

MOST_SCALE = 100.0
KEPT_BATCH = 256
FINE_TUNING = Schedule(  # of a published vision transformer; the micro CLIP takes 3e-4, and 2e-3 from scratch
    rate=1e-5,
    batch_size=256,
    weight_decay=0.1,
    epsilon=1e-6,
    warm_up_rate=None,
    betas=(0.9, 0.98),
    decayed="matrices",
    clip=1.0,
    steps=300,
)


@dataclass(frozen=True, slots=True)
class Manner:
    """How towers are trained, whatever the objective.

    lock: which towers may not move.
    least_area: least share of an image's area in a training crop; 1 trains on whole images. A locked image tower sees
        whole images once, and its features are kept.
    chunk: images or texts encoded at once, to bound memory; None for a whole batch.
    """

    lock: Lock = Lock()  # noqa: RUF009
    least_area: float = 0.9
    chunk: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.least_area <= 1:
            raise ValueError(f"the least area of a crop is {self.least_area}; give a share above 0, at most 1")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"cannot encode {self.chunk} at once; give at least 1")


@dataclass(frozen=True, slots=True, eq=False)
class Adapted:
    """An adapted encoder, frozen.

    encoder: the encoder.
    parent: the fingerprint of the encoder that it was adapted from.
    match: the tensors of an exported matching module, and `kind`, its name for `classify --match`; {} and "" without.
    losses: of each step, also of those before a run was resumed.
    resumed: the number of steps done before the run was resumed; 0 for a new run.
    masked: share of the negatives in all batches that were none, having an equal caption or image.
    facts: numbers that the loss reports.
    loss: the trained loss, with its clusters, noise or decoder, for what it can still say (`nlip.write_captions`).
    """

    encoder: TwoTowers
    parent: Fingerprint
    match: Mapping[str, torch.Tensor] = field(default_factory=dict)
    kind: str = ""
    losses: tuple[float, ...] = ()
    resumed: int = 0
    masked: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    loss: nn.Module | None = None


def adapt(
    encoder: TwoTowers,
    examples: Examples,
    objective: Objective,
    *,
    manner: Manner = Manner(),
    schedule: Schedule = FINE_TUNING,
    checkpoint: Checkpoint | None = None,
    after: Callable[[Step], None] | None = None,
    report: Report = silent,
) -> Adapted:
    """Train a float32 copy of an encoder, and return it frozen.

    encoder: an open_clip model; it is not changed.
    examples: images with captions, or with classes and a head, as the objective needs.
    objective: the settings of an objective.
    manner: locks, crops and chunks.
    schedule: length in steps, batch size, optimiser and rate.
    checkpoint: where to save the run; an existing checkpoint of the same run is resumed, and ends with the same weights
        as an uninterrupted run.
    after: callback after each step.
    report: receives progress events.

    Batch k depends on the seed and k alone. After each step the logit scale is clamped to [1, 100]. Raises ValueError
    if examples, encoder and objective do not fit; ArithmeticError, naming the step, where the loss is not finite.
    """
    needs = objective.needs
    _check(examples, needs)
    if schedule.steps is None:
        raise ValueError("a stream of batches has no epochs; give the schedule its steps")
    towers = unlocked(with_bias(encoder) if needs.bias else encoder, manner.lock, chunk=manner.chunk, scale=needs.scale)
    towers.set_modes()
    kept = _keep(towers, examples, needs, report) if manner.lock.whole_image and not needs.views else None
    views = Views(needs.views, manner.least_area, needs.least_area, needs.flip)
    batches = Batches(examples, schedule.batch_size, schedule.seed, views, needs.episode, kept)
    with torch.random.fork_rng(devices=[]):  # weights of a loss depend on the seed alone
        torch.default_generator.manual_seed(schedule.seed)
        loss: Any = objective.build(towers, Setting(examples, batches)).to(towers.device).train()
    log = _Log(schedule.steps)

    def step(batch: Batch) -> torch.Tensor:
        if batch.first and hasattr(loss, "begin_epoch"):
            loss.begin_epoch(batch.epoch, batches.epoch_rows(batch.epoch))
            towers.set_modes()
        log.count(batch, None if needs.labels else same_pairs(batch))
        mean: torch.Tensor = loss(batch)
        return mean

    @torch.no_grad()
    def finish(each: Step) -> None:
        least = -math.inf if needs.bias else 0.0
        towers.model.logit_scale.clamp_(least, math.log(MOST_SCALE))
        log.add(each)
        if after is not None:
            after(each)

    logits = [towers.model.logit_scale, *([towers.model.logit_bias] if needs.bias else [])] if needs.scale else []
    trained = [*towers.parameters(), *logits, *loss.parameters()]
    if not trained:
        raise ValueError(
            "nothing would be trained: both towers are locked, and the objective has no weights of its own"
        )
    state = [*trained, *towers.buffers(), *loss.buffers(), log.negatives, log.losses]
    if checkpoint is not None:
        facts = [encoder.fingerprint.identity, repr(objective), repr(manner), _describe(examples.head)]
        checkpoint = replace(
            checkpoint, identity=hashlib.sha256(repr([checkpoint.identity, *facts]).encode()).hexdigest()
        )
    train(
        state,
        step,
        batches,
        schedule=schedule,
        checkpoint=checkpoint,
        after=finish,
        report=lambda event: report(replace(event, note=log.note)),
    )
    match = {name: values.detach().cpu() for name, values in _exported(loss).items()}
    numbers = {name: float(value) for name, value in getattr(loss, "facts", {}).items()}
    return Adapted(
        _freeze(towers, moved=_moved(encoder, towers, manner.lock), bias=needs.bias),
        encoder.fingerprint,
        match,
        str(getattr(loss, "kind", "")) if match else "",
        tuple(log.losses.tolist()),
        log.resumed,
        float(log.negatives[0] / log.negatives[1].clamp(min=1)),
        numbers,
        loss.eval(),
    )


class _Log:
    """What a run counts: the negatives, those masked and all, and the loss of each step; saved with its checkpoint."""

    def __init__(self, steps: int) -> None:
        self.negatives = torch.zeros(2, dtype=torch.float64)
        self.losses = torch.zeros(steps, dtype=torch.float64)
        self.resumed = steps
        self.note = ""

    def count(self, batch: Batch, same: torch.Tensor | None) -> None:
        """Count the negatives of a batch, of which `same` bool [n, n] masks some."""
        masked = 0 if same is None else int(same.sum()) - len(batch)
        self.negatives += torch.tensor([masked, len(batch) * (len(batch) - 1)])

    def add(self, step: Step) -> None:
        """Keep the loss of a step."""
        self.resumed = min(self.resumed, step.number - 1)
        self.losses[step.number - 1] = step.loss
        self.note = f"loss {step.loss:.4f}, rate {step.rate:.1e}"


def _check(examples: Examples, needs: Needs) -> None:
    if needs.labels and (examples.targets is None or examples.head is None):
        raise ValueError("this objective needs images with classes and the prompts of the classes; pairs have none")
    if not needs.labels and not examples.captions:
        raise ValueError("this objective needs images with captions; these have none")


def _describe(head: Head | None) -> str:
    return (
        ""
        if head is None
        else f"{head.labels.names} {hashlib.sha256(head.weights.cpu().numpy().tobytes()).hexdigest()}"
    )


def with_bias(encoder: TwoTowers) -> TwoTowers:
    """Return the encoder with a logit bias, 0 if it had none."""
    if encoder.model.logit_bias is not None:
        return encoder
    model = copy.deepcopy(encoder.model)
    model.logit_bias = nn.Parameter(torch.zeros_like(model.logit_scale), requires_grad=False)
    config = {**encoder.config, "model_cfg": {**encoder.config.get("model_cfg", {}), "init_logit_bias": 0.0}}
    return replace(encoder, model=model, config=config)


@torch.no_grad()
def _keep(towers: Towers, examples: Examples, needs: Needs, report: Report) -> Kept:
    """Encode whole images once by the locked image tower."""
    features, patches = [], []
    for rows in torch.split(torch.arange(len(examples)), KEPT_BATCH):
        pixels = examples.pixels(rows)
        features.append(towers.encoder.encode_pixels(pixels).pooled.cpu())
        if needs.patches:
            patches.append(towers.encoder.patch_tokens(pixels).half().cpu())
        report(ProgressEvent("encode images", int(rows[-1]) + 1, len(examples), "images"))
    return Kept(torch.cat(features), torch.cat(patches) if patches else None)


def _exported(loss: nn.Module) -> dict[str, torch.Tensor]:
    match = getattr(loss, "match", None)
    return match.state_dict() if isinstance(match, nn.Module) else {}


def _moved(encoder: TwoTowers, towers: Towers, lock: Lock) -> bool:
    """Return whether the image tower moved."""
    if not lock.whole_image:
        return True
    before, after = encoder.model.visual.state_dict(), towers.model.visual.state_dict()
    if any(not torch.equal(values.float(), after[name].float()) for name, values in before.items()):
        raise AssertionError("a locked image tower moved")
    return False


def _freeze(towers: Towers, *, moved: bool, bias: bool) -> TwoTowers:
    """Return the trained encoder, frozen, with its own fingerprint."""
    model = towers.model.eval().requires_grad_(False)
    encoder = towers.encoder
    own = hashlib.sha256(weights_file(model)).hexdigest()
    images = "" if moved else json.dumps(encoder.fingerprint.image_part.identity, sort_keys=True)
    fingerprint = replace(encoder.fingerprint, weights=own, of_images=images, spec="")
    config = encoder.config
    if model.logit_bias is not None:
        config = {**config, "model_cfg": {**config.get("model_cfg", {}), "init_logit_bias": float(model.logit_bias)}}
    return replace(
        encoder,
        name=f"adapted {encoder.name}",
        model=model,
        fingerprint=fingerprint,
        scale=float(model.logit_scale.exp()),
        bias=0.0 if model.logit_bias is None else float(model.logit_bias),
        trained_bias=encoder.trained_bias or bias,
        config=config,
    )

"""Both towers trained further on labelled images: phase A of BALLAD.

    logits = scale f(image) T + bias      T [c, d] the texts "a photo of a NAME.", encoded anew in every step

Ma et al., 2021 (arXiv 2111.14745): images are drawn as they come, frequent classes more often. As in the authors' code
the contrast is between an image and the texts of all classes. Defaults are those for ImageNet-LT: SGD 1e-5, momentum
0.9, weight decay 5e-4, batches of 512, 50 epochs, a cosine (here per step). Statistics of batch norms stay.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import asdict, replace

import torch
from safetensors.torch import save
from torch.nn import functional

from rag_clip.data import LabelSet
from rag_clip.models.towers import TwoTowers, two_towers
from rag_clip.progress import Report, silent
from rag_clip.protocols import Encoder
from rag_clip.training.checkpoint import Checkpoint
from rag_clip.training.loop import Rows, Schedule, train

TEMPLATE = "a photo of a {}."
PUBLISHED_SCHEDULE = Schedule(50, 512, 1e-5, "sgd", weight_decay=5e-4)


def continue_training(
    encoder: Encoder,
    pixels: Callable[[torch.Tensor], torch.Tensor],
    targets: torch.Tensor,
    *,
    labels: LabelSet,
    template: str = TEMPLATE,
    schedule: Schedule = PUBLISHED_SCHEDULE,
    kept: Checkpoint | None = None,
    report: Report = silent,
) -> TwoTowers:
    """Train a float32 copy of both towers on labelled images, and return it frozen; the last epoch is kept.

    `pixels(rows int64 [b])` returns the uint8 pixels [b, 3, height, width] of images, anew for each batch, augmented
    or not; `targets` int64 [m] are their classes. Scale and bias stay. The copy has a fingerprint of its own, which is
    that of its `checkpoint`. A run that was killed goes on from `kept`, if encoder, labels and targets are the same.
    """
    towers = two_towers(encoder)
    model = copy.deepcopy(towers.model).float()
    trained = [weight for name, weight in model.named_parameters() if name not in ("logit_scale", "logit_bias")]
    for weight in trained:
        weight.requires_grad_(True)
    training = replace(towers, model=model, fingerprint=replace(towers.fingerprint, precision="fp32"))
    tokens = towers.tokenizer([template.format(name) for name in labels.names])

    def loss(rows: torch.Tensor) -> torch.Tensor:
        images, texts = training.encode_pixels(pixels(rows)).pooled, training.encode_tokens(tokens)
        return functional.cross_entropy(encoder.scale * images @ texts.T, targets[rows].to(images.device))

    if kept is not None:
        facts = [kept.identity, asdict(encoder.fingerprint), template, labels.names, targets.tolist()]
        kept = replace(kept, identity=hashlib.sha256(repr(facts).encode()).hexdigest())
    train(trained, loss, Rows(len(targets)), schedule=schedule, checkpoint=kept, report=report)
    model.requires_grad_(False)
    weights = hashlib.sha256(checkpoint(training)).hexdigest()
    return replace(training, fingerprint=replace(training.fingerprint, weights=weights))


def checkpoint(encoder: TwoTowers) -> bytes:
    """Return the weights as a `.safetensors` file, for `load_encoder` beside the configuration of the model."""
    return save({name: values.detach().cpu().contiguous() for name, values in encoder.model.state_dict().items()})

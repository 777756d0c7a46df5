"""Continued training of both towers on labelled images: phase A of BALLAD.

    logits = scale f(image) T' + bias      T [c, d]: the texts "a photo of a NAME.", encoded again in every step

Ma et al., 2021 (arXiv 2111.14745): images are sampled uniformly, so frequent classes come more often. As in the
authors' code, the loss contrasts an image with the texts of all classes. Defaults are those for ImageNet-LT: SGD with
rate 1e-5, momentum 0.9, weight decay 5e-4, batches of 512, 50 epochs, cosine decay (here per step). The running
statistics of batch norms do not change.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import asdict, replace

import torch
from torch.nn import functional

from rag_clip.data import LabelSet
from rag_clip.models.folder import weights_file
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
    """Train a float32 copy of both towers on labelled images, and return it frozen, as of the last epoch.

    encoder: an open_clip model; it is not changed.
    pixels: a function of rows int64 [b] that returns uint8 pixels [b, 3, height, width]; called for each batch, so it
        may augment.
    targets: classes of the images, int64 [m].
    labels, template: class names and the template of their texts.
    schedule: by default the published one.
    kept: checkpoint to resume from, if encoder, template, labels and targets are the same.
    report: receives progress events.

    Scale and bias are not trained. The fingerprint of the copy is that of its `checkpoint`.
    """
    towers = two_towers(encoder)
    model = copy.deepcopy(towers.model).float()
    trained = [weight for name, weight in model.named_parameters() if name not in ("logit_scale", "logit_bias")]
    for weight in trained:
        weight.requires_grad_(True)
    training = replace(towers, model=model, fingerprint=replace(towers.fingerprint, precision="fp32"))
    tokens = towers.tokenizer([template.format(name) for name in labels.names])

    def loss(rows: torch.Tensor) -> torch.Tensor:
        images, texts = training.encode_pixels(pixels(rows)).pooled, training.encode_tokens(tokens)  # [b, d], [c, d]
        # The bias is the same for all classes and cancels in the softmax.
        return functional.cross_entropy(encoder.scale * images @ texts.T, targets[rows].to(images.device))

    if kept is not None:
        facts = [kept.identity, asdict(encoder.fingerprint), template, labels.names, targets.tolist()]
        kept = replace(kept, identity=hashlib.sha256(repr(facts).encode()).hexdigest())
    train(trained, loss, Rows(len(targets)), schedule=schedule, checkpoint=kept, report=report)
    model.requires_grad_(False)
    weights = hashlib.sha256(checkpoint(training)).hexdigest()
    return replace(training, fingerprint=replace(training.fingerprint, weights=weights))


def checkpoint(encoder: TwoTowers) -> bytes:
    """Return the weights as a `.safetensors` file, which `load_encoder` reads beside the model's configuration."""
    return weights_file(encoder.model)

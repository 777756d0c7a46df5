"""Context-aware robust fine-tuning, which keeps what an image says of its context (Mao et al., 2024, arXiv 2211.16175).

    L = CE(s f_theta(x) W_cls', y) + lambda mean_i KL(p(theta_0)_i || p(theta)_i)      lambda = 1
    p(theta) = softmax(s f_theta(x) W_ctx')
    W_ctx [M, d] rows n(mean over classes of E), W_cls [c, d] rows n(mean over contexts of E)

E [c, M, d] are the unit text vectors of class c in context m: text m of every class has template m. W_ctx and theta_0,
the start, are frozen; both see the same crop. s is the model's own scale, not trained, and lambda belongs to it: one
port leaves s out and divides W_ctx by the norm of the whole matrix, after which the divergence is nearly nothing.
Another has its arguments the wrong way round and trains W_ctx, which collapses. The paper trains W_cls freely; here it
is frozen, so that the text vectors of other tasks stay compatible and the result can be merged, or, with `head =
"texts"`, trained through the text tower, since a folder of the model has no place for other class weights.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import log_softmax, normalize

from rag_clip.display import counted
from rag_clip.training.batches import Batch, Head
from rag_clip.training.objective import Needs, Setting
from rag_clip.training.objectives.labels import Labels, LabelsLoss, need_head
from rag_clip.training.towers import Towers

ADVICE = 'give prompts of several templates alone, such as those of a recipe with [templates] set = "general"'


@dataclass(frozen=True, slots=True)
class CarFt:
    """Settings: `weight` lambda of the divergence, and `head` and `smoothing` as in `Labels`.

    Raises ValueError for a negative weight.
    """

    weight: float = 1.0
    head: Literal["frozen", "texts"] = "frozen"
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"the weight of the divergence is {self.weight}; give 0, which is labels alone, or more")

    @property
    def needs(self) -> Needs:
        """Images with classes."""
        return Needs(labels=True, scale=False)

    def build(self, towers: Towers, setting: Setting) -> nn.Module:
        """Return the loss; raises ValueError unless every class has a text in each of several contexts."""
        loss = CarFtLoss(towers, self, need_head(setting))
        if len(loss.contexts) == 1 and self.weight:
            raise ValueError(
                f"carft keeps what an image says of several contexts, and each class has one text; {ADVICE}"
            )
        if setting.batches.views.least_area == 1:
            loss.keep(len(setting.examples))
        return loss


class CarFtLoss(nn.Module):
    """The loss of a batch of labelled images; `facts` has the number of contexts."""

    contexts: torch.Tensor
    kept: torch.Tensor

    def __init__(self, towers: Towers, settings: CarFt, head: Head) -> None:
        super().__init__()
        self.towers, self.settings = towers, settings
        self.labels = LabelsLoss(towers, Labels(settings.head, settings.smoothing), head)
        self.register_buffer("contexts", context_weights(towers, head))  # [M, d]
        self.register_buffer("kept", torch.empty(0))
        self.facts = {"contexts": len(self.contexts)}
        self.start = _frozen(towers) if settings.weight and not towers.lock.whole_image else None

    def keep(self, images: int) -> None:
        """Remember what the start says of each image; only for images that are not augmented."""
        self.kept = torch.full((images, len(self.contexts)), torch.nan)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the mean loss of a batch."""
        features = self.towers.embed_images(batch)  # [n, d]
        loss: torch.Tensor = self.labels.of_features(features, batch)
        if self.start is None:
            return loss
        logits = self.towers.scale * features @ self.contexts.T  # [n, M]
        return loss + self.settings.weight * divergence(self._logits_by(self.start, batch).to(logits), logits)

    @torch.no_grad()
    def _logits_by(self, start: Towers, batch: Batch) -> torch.Tensor:
        """Return the logits [n, M] of the contexts by the start."""
        known = self.kept[batch.rows] if len(self.kept) else torch.tensor(torch.nan)
        if not known.isnan().any():
            return known
        logits = start.scale * start.embed_images(batch) @ self.contexts.T
        if len(self.kept):
            self.kept[batch.rows] = logits.to(self.kept)
        return logits


def divergence(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return the mean over images of KL(softmax(before) || softmax(after)), from logits [n, M]."""
    old, new = log_softmax(before, dim=1), log_softmax(after, dim=1)
    return (old.exp() * (old - new)).sum(1).mean()


def _frozen(towers: Towers) -> Towers:
    """Return a frozen copy, which is no module of the loss and so stays in evaluation mode."""
    model = copy.deepcopy(towers.model).eval().requires_grad_(False)
    return replace(towers, encoder=replace(towers.encoder, model=model))


@torch.no_grad()
def context_weights(towers: Towers, head: Head) -> torch.Tensor:
    """Return a unit row for each context [M, d], the mean of all classes in it.

    Raises ValueError if classes differ in the number of their texts.
    """
    counts = {name: len(texts) for name, texts in zip(head.labels.names, head.texts, strict=False)}
    if not counts:
        raise ValueError(f"carft needs the texts of the classes, and there are none; {ADVICE}")
    fewest, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[fewest] != counts[most]:
        raise ValueError(
            f"carft needs every class in the same templates, but {most!r} has {counted(counts[most], 'text')} and "
            f"{fewest!r} has {counts[fewest]}; {ADVICE}"
        )
    vectors = towers.encoder.encode_text([text for texts in head.texts for text in texts])
    return normalize(vectors.view(len(counts), -1, vectors.shape[1]).mean(0), dim=-1)

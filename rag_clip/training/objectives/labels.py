"""Fine-tuning on labelled images against the frozen weights of the class texts, as in PAINT.

    L = CE(s x W')      W [c, d] frozen, rows n(mean of the texts of a class)      s the model's own scale, not trained

Ilharco et al., 2022 (arXiv 2208.05592) freeze the head so that the text vectors of other tasks stay compatible. With
`head = "texts"` the texts are encoded again in every step, with gradients, as in phase A of BALLAD (Ma et al., 2021,
arXiv 2111.14745).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from rag_clip.training.batches import Batch, Head
from rag_clip.training.objective import Needs, Setting
from rag_clip.training.towers import Towers


@dataclass(frozen=True, slots=True)
class Labels:
    """Settings: `head` is "frozen", the weights of the prompts, or "texts", their texts encoded in every step.

    `smoothing` is that of the labels, 0 in the paper.
    """

    head: Literal["frozen", "texts"] = "frozen"
    smoothing: float = 0.0

    @property
    def needs(self) -> Needs:
        """Images with classes."""
        return Needs(labels=True, scale=False)

    def build(self, towers: Towers, setting: Setting) -> nn.Module:
        """Return the loss."""
        return LabelsLoss(towers, self, need_head(setting))


def need_head(setting: Setting) -> Head:
    """Return the head of a setting; raises ValueError if it has none."""
    if setting.examples.head is None or setting.examples.targets is None:
        raise ValueError("this objective needs images with classes, and the prompts of the classes")
    return setting.examples.head


class LabelsLoss(nn.Module):
    """The loss of a batch of labelled images."""

    weights: torch.Tensor

    def __init__(self, towers: Towers, settings: Labels, head: Head) -> None:
        super().__init__()
        self.towers, self.settings, self.head = towers, settings, head
        self.register_buffer("weights", head.weights.to(towers.device, torch.float32))

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the mean loss of a batch."""
        return self.of_features(self.towers.embed_images(batch), batch)

    def of_features(self, features: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the mean loss of a batch whose images have these features [n, d]."""
        assert batch.targets is not None
        weights = self.weights if self.settings.head == "frozen" else self._encoded()  # [c, d]
        logits = self.towers.scale * features @ weights.T  # [n, c]
        return cross_entropy(logits, batch.targets.to(logits.device), label_smoothing=self.settings.smoothing)

    def _encoded(self) -> torch.Tensor:
        lengths = [len(texts) for texts in self.head.texts]
        vectors = self.towers.embed_texts([text for texts in self.head.texts for text in texts])
        return normalize(torch.stack([part.mean(0) for part in torch.split(vectors, lengths)]), dim=-1)

"""What an objective is: settings with the paper's defaults, which build a loss of batches for towers in training."""

from __future__ import annotations

from dataclasses import Field, dataclass
from typing import Any, ClassVar, Protocol

import torch

from rag_clip.training.batches import Batch, Batches, Examples
from rag_clip.training.towers import Towers


@dataclass(frozen=True, slots=True)
class Needs:
    """What an objective needs.

    labels: images with classes, and the weights of their texts, instead of captions.
    views: further views of each image beside the first.
    least_area, flip: least share of an image's area in further views, and whether they are mirrored at random.
    patches: patch tokens; those of a locked image tower are kept.
    scale, bias: whether the logit scale is trained, and whether the model must have a logit bias.
    episode: images per epoch, drawn anew for each; None for all.
    """

    labels: bool = False
    views: int = 0
    least_area: float = 0.5
    flip: bool = False
    patches: bool = False
    scale: bool = True
    bias: bool = False
    episode: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What a loss is built for: the examples, and how they are drawn into batches."""

    examples: Examples
    batches: Batches


class Loss(Protocol):
    """A loss of batches: an `nn.Module` whose parameters are trained with the towers.

    What it learns during an epoch without gradients, such as clusters, it keeps in buffers, so that a resumed run has
    them. `facts` are numbers for the report of the run. A loss with a module `match` exports it with the checkpoint;
    `kind` says how `classify --match` uses it.
    """

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the mean loss of a batch, a scalar."""

    def begin_epoch(self, epoch: int, rows: torch.Tensor) -> None:
        """Prepare an epoch, numbered from 0, whose images are `rows`; optional, called before its first batch."""


class Objective(Protocol):
    """The settings of an objective: a frozen dataclass with the paper's defaults."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def needs(self) -> Needs:
        """What it needs."""

    def build(self, towers: Towers, setting: Setting) -> torch.nn.Module:
        """Return the loss, which holds to the protocol `Loss`; raises ValueError if it cannot be built for these."""

"""Whole images of an epoch in evaluation mode, for what an objective learns before the epoch: clusters, noise, tags."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from rag_clip.training.batches import Batch
from rag_clip.training.objective import Setting
from rag_clip.training.towers import Towers

EPISODE_BATCH = 256


@contextmanager
def evaluating(towers: Towers, *modules: nn.Module) -> Iterator[None]:
    """In this context towers and modules are in evaluation mode, without gradients; afterwards they train on, if so."""
    modes = [module.training for module in (towers.model, *modules)]
    with torch.no_grad():
        try:
            for module in (towers.model, *modules):
                module.eval()
            yield
        finally:
            if modes[0]:
                towers.set_modes()
            for module, mode in zip(modules, modes[1:], strict=True):
                module.train(mode)


def whole_batches(setting: Setting, rows: torch.Tensor, *, epoch: int = 0, turn: int = 0) -> Iterator[Batch]:
    """Yield batches of whole images, not augmented, in the order of `rows`, int64 [m], for `evaluating` towers.

    An image with several captions has caption number `turn`, counted in a circle. Kept outputs of a locked image tower
    are used instead of pixels.
    """
    examples, kept = setting.examples, setting.batches.kept
    for part in torch.split(rows, EPISODE_BATCH):
        choices = [examples.captions[row] for row in part.tolist()] if examples.captions else []
        yield Batch(
            -1,
            epoch,
            False,
            part,
            torch.empty(0, dtype=torch.uint8) if kept else examples.pixels(part)[None],
            None if kept is None else kept.features[part],
            None if kept is None or kept.patches is None else kept.patches[part],
            tuple(choice[turn % len(choice)] for choice in choices),
            None if examples.targets is None else examples.targets[part],
            part if examples.contents is None else examples.contents[part],
        )

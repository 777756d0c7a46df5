"""A two-tower model of a few thousand weights, examples for it, and the contract that every objective keeps."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from rag_clip.data import LabelSet
from rag_clip.demo.captions import describe
from rag_clip.demo.concepts import concepts
from rag_clip.demo.draw import draw_design
from rag_clip.demo.photograph import photograph
from rag_clip.models.open_clip import load_encoder
from rag_clip.models.towers import TwoTowers
from rag_clip.training.adapt import FINE_TUNING, adapt, with_bias
from rag_clip.training.batches import Batch, Batches, Examples, Head, Views
from rag_clip.training.checkpoint import Checkpoint
from rag_clip.training.loop import Step
from rag_clip.training.objective import Objective, Setting
from rag_clip.training.towers import Lock, Towers, unlocked

CAPTIONS = ("a red boat", "two blue boats", "the old mill", "a green gate", "a dark mill", "six red gates")
NAMES = ("boat", "mill", "gate")
TARGETS = (0, 0, 1, 2, 1, 2)


@cache
def encoder() -> TwoTowers:
    """Return the bundled CLIP on the CPU."""
    loaded = load_encoder("demo", device="cpu")
    assert isinstance(loaded, TwoTowers)
    return loaded


def pixels(rows: torch.Tensor) -> torch.Tensor:
    """Return random pixels uint8 [b, 3, 48, 48], which depend on the row alone."""
    made = [
        torch.randint(0, 256, (3, 48, 48), generator=torch.Generator().manual_seed(int(row)), dtype=torch.uint8)
        for row in rows
    ]
    return torch.stack(made)


def pairs() -> Examples:
    """Return six images with a caption each, and a class each."""
    return Examples(pixels, [(caption,) for caption in CAPTIONS], torch.tensor(TARGETS), head())


def head() -> Head:
    """Return the weights of three class names."""
    texts = [f"a photo of a {name}." for name in NAMES]
    weights = encoder().encode_text(texts)
    return Head(LabelSet(NAMES), weights, tuple((text,) for text in texts))


def build(
    objective: Objective,
    *,
    lock: Lock = Lock(),  # noqa: B008
    examples: Examples | None = None,
    least_area: float = 0.8,
) -> tuple[Towers, Any, Batch]:
    """Return towers in training, the loss of an objective, and a batch of all six images of `examples` or `pairs`."""
    examples = examples or pairs()
    needs = objective.needs
    start = with_bias(encoder()) if needs.bias else encoder()
    towers = unlocked(start, lock, scale=needs.scale)
    views = Views(needs.views, least_area, needs.least_area, needs.flip)
    batches = Batches(examples, 6, 0, views, needs.episode)
    towers.set_modes()
    torch.manual_seed(0)
    loss = objective.build(towers, Setting(examples, batches))
    batch = next(batches(0))
    return towers, loss.train(), batch


def check_objective(objective: Objective, examples: Examples | None = None) -> None:
    """Check that a loss is finite, moves what is free and only that, and does not depend on the order of the batch."""
    for lock in (Lock(), Lock(image=True), Lock(text=True)):
        towers, loss, batch = build(objective, lock=lock, examples=examples)
        begin = getattr(loss, "begin_epoch", None)
        if begin is not None:
            begin(0, batch.rows)
        value = loss(batch)
        assert value.ndim == 0
        assert torch.isfinite(value)
        order = torch.tensor([3, 1, 5, 0, 4, 2])
        shuffled = loss(_permute(batch, order))
        assert torch.allclose(shuffled, value, atol=2e-4), (shuffled, value)
        if not value.requires_grad:
            assert not [*towers.parameters(), *loss.parameters()] or objective.needs.labels
            continue
        value.backward()
        for name, weight in towers.model.named_parameters():
            if not weight.requires_grad:
                assert weight.grad is None, f"{name} is locked and has a gradient"
        moved = [
            name for name, weight in towers.model.named_parameters() if weight.grad is not None and weight.grad.any()
        ]
        assert bool(moved) == any(weight.requires_grad for weight in towers.model.parameters()) or lock.text
        assert not (lock.image and any(name.startswith("visual.") for name in moved))


def _permute(batch: Batch, order: torch.Tensor) -> Batch:
    return replace(
        batch,
        rows=batch.rows[order],
        views=batch.views[:, order],
        texts=tuple(batch.texts[row] for row in order.tolist()) if batch.texts else (),
        targets=None if batch.targets is None else batch.targets[order],
        contents=batch.contents[order],
    )


def equal_losses(first: Objective, second: Objective, *, noise: float = 0.0) -> bool:
    """Return whether two objectives have the same loss and gradients, bit for bit.

    `noise` is put into the first loss, where it has such a buffer.
    """
    found = []
    for objective in (first, second):
        towers, loss, batch = build(objective)
        if hasattr(loss, "begin_epoch"):
            loss.begin_epoch(0, batch.rows)
        if noise and hasattr(loss, "noise"):
            loss.noise.fill_(noise)
        value = loss(batch)
        value.backward()
        found.append([value, *(weight.grad for weight in towers.model.parameters())])
    return all(torch.equal(*both) for both in zip(*found, strict=True))


def check_resumed(objective: Objective) -> None:
    """Check that a run killed within an epoch, and resumed, ends with the weights of a run that was not killed."""

    class KilledError(Exception):
        pass

    def kill(step: Step) -> None:
        if step.number == 4:  # of epochs of two batches: the third step is the first of its epoch
            raise KilledError

    schedule = replace(FINE_TUNING, steps=5, batch_size=3, rate=1e-3)
    whole = adapt(encoder(), pairs(), objective, schedule=schedule)
    with TemporaryDirectory() as folder:
        place = Checkpoint(Path(folder) / "run.pt", every=1)
        with pytest.raises(KilledError):
            adapt(encoder(), pairs(), objective, schedule=schedule, checkpoint=place, after=kill)
        torch.manual_seed(99)
        resumed = adapt(encoder(), pairs(), objective, schedule=schedule, checkpoint=place)
    assert resumed.losses == whole.losses
    for name, values in whole.encoder.model.state_dict().items():
        assert torch.equal(values, resumed.encoder.model.state_dict()[name]), name
    assert resumed.facts == whole.facts


@cache
def described_pairs(count: int) -> Examples:
    """Return photographs of concepts of the micro world, each with a description of its own."""
    some = concepts()[:: len(concepts()) // count][:count]
    drawn = np.stack([draw_design(concept.design) for concept in some])
    shown = photograph(torch.from_numpy(drawn).permute(0, 3, 1, 2).contiguous(), seed=5)
    small = interpolate(shown.float(), size=(48, 48), mode="bicubic", antialias=True).round().clamp(0, 255).byte()
    draw = np.random.default_rng(0)
    return Examples(lambda rows: small[rows], [(describe(concept.design, draw),) for concept in some])

"""Training examples, and the batches that a training loop draws from them.

Batch k is a function of the examples, the seed and k alone, so that a resumed run goes on with the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from torch.nn.functional import affine_grid, grid_sample

from rag_clip.data import LabelSet
from rag_clip.display import counted

ASPECTS = (3 / 4, 4 / 3)


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """The classes of labelled images: their names, and frozen unit weights [c, d] of their texts.

    `texts` are the texts of each class, which an objective may encode again.
    """

    labels: LabelSet
    weights: torch.Tensor
    texts: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Images to train on, with their captions or their classes.

    pixels: a function of rows int64 [b] that returns uint8 pixels [b, 3, height, width], not augmented.
    captions: the captions of each image, one or several, [n]; () if there are none.
    targets: the class of each image, int64 [n], or None.
    head: the classes that `targets` are numbers of.
    contents: equal numbers for equal images, int64 [n]; None if all images differ.

    Raises ValueError without images, and if captions, targets and contents differ in length or an image has none.
    """

    pixels: Callable[[torch.Tensor], torch.Tensor]
    captions: Sequence[tuple[str, ...]] = ()
    targets: torch.Tensor | None = None
    head: Head | None = None
    contents: torch.Tensor | None = None

    def __post_init__(self) -> None:
        lengths = {len(values) for values in (self.captions, self.targets, self.contents) if values is not None}
        lengths -= set() if self.captions or self.targets is None else {0}
        if len(lengths) != 1 or not len(self):
            raise ValueError("there is nothing to train on; give images with captions, or with classes")
        if any(not texts for texts in self.captions):
            raise ValueError("an image has no caption; leave such images out")

    def __len__(self) -> int:
        return len(self.captions) or (0 if self.targets is None else len(self.targets))


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The images of a step.

    step: the number of the step, from 0.
    epoch: the number of the epoch, from 0.
    first: whether the batch is the first of its epoch.
    rows: rows of the examples, int64 [n].
    views: augmented views of the images, uint8 [v, n, 3, height, width]; empty if `features` are given.
    features: kept unit features of the images, [n, d], or None.
    patches: kept patch tokens of the images, [n, p, D], or None.
    texts: a caption of each image, drawn from its captions; () if the examples have no captions.
    targets: the classes of the images, int64 [n], or None.
    contents: equal numbers for equal images, int64 [n].
    """

    step: int
    epoch: int
    first: bool
    rows: torch.Tensor
    views: torch.Tensor
    features: torch.Tensor | None
    patches: torch.Tensor | None
    texts: tuple[str, ...]
    targets: torch.Tensor | None
    contents: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Views:
    """How the views of an image are made: the first for the main loss, the others for losses between views.

    others: the number of further views.
    least_area: least share of an image's area in the first view; 1 is the whole image.
    other_area: the same of other views.
    flip: whether other views are mirrored with probability 1/2.
    """

    others: int = 0
    least_area: float = 1.0
    other_area: float = 0.5
    flip: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """Outputs of a locked image tower for all images: unit features [n, d], and patch tokens [n, p, D] or None."""

    features: torch.Tensor
    patches: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Batches:
    """The batches of examples, for the training loop: `batches(first)` yields batch number `first` and all after it.

    examples: the images.
    size: images per batch, at most all of them; a batch is never smaller.
    seed: of the order, of the captions drawn and of the views.
    views: how the views are made.
    episode: images per epoch, drawn anew for each; None for all.
    kept: outputs of a locked image tower, given instead of views.
    """

    examples: Examples
    size: int
    seed: int
    views: Views = Views()
    episode: int | None = None
    kept: Kept | None = None

    @property
    def rows(self) -> int:
        """Images per batch."""
        return min(self.size, self._episode)

    @property
    def per_epoch(self) -> int:
        """Batches per epoch; images left over at the end of an epoch are not used in it."""
        return self._episode // self.rows

    @property
    def _episode(self) -> int:
        return min(self.episode or len(self.examples), len(self.examples))

    def epoch_rows(self, epoch: int) -> torch.Tensor:
        """Return the rows of an epoch in their order, int64."""
        order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.examples))
        return torch.from_numpy(order[: self._episode])

    def __call__(self, first: int) -> Iterator[Batch]:
        """Yield batches from number `first` on, without end; the next one is made while one is used."""
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as ahead:
            numbers = count(first)
            coming = ahead.submit(self._make, next(numbers))
            while True:
                batch = coming.result()
                coming = ahead.submit(self._make, next(numbers))
                yield batch

    def _make(self, step: int) -> Batch:
        epoch, place = divmod(step, self.per_epoch)
        rows = self.epoch_rows(epoch)[place * self.rows : (place + 1) * self.rows]
        texts: tuple[str, ...] = ()
        if self.examples.captions:
            draw = np.random.default_rng([self.seed, 2, step])
            choices = [self.examples.captions[row] for row in rows.tolist()]
            texts = tuple(choice[int(draw.integers(len(choice)))] for choice in choices)
        contents, targets = self.examples.contents, self.examples.targets
        return Batch(
            step,
            epoch,
            place == 0,
            rows,
            torch.empty(0, dtype=torch.uint8) if self.kept else self._draw_views(rows, step),
            None if self.kept is None else self.kept.features[rows],
            None if self.kept is None or self.kept.patches is None else self.kept.patches[rows],
            texts,
            None if targets is None else targets[rows],
            rows if contents is None else contents[rows],
        )

    def _draw_views(self, rows: torch.Tensor, step: int) -> torch.Tensor:
        pixels = self.examples.pixels(rows)  # [n, 3, h, w]
        if len(pixels) != len(rows):
            raise ValueError(f"there are pixels of {counted(len(pixels), 'image')}, not of {len(rows)}")
        views = [crops(pixels, least_area=self.views.least_area, seed=[self.seed, 3, step])]
        for view in range(1, 1 + self.views.others):  # a seed of its own: more views leave the first as it is
            seed = [self.seed, 3, step, view]
            views.append(crops(pixels, least_area=self.views.other_area, flip=self.views.flip, seed=seed))
        return torch.stack(views)


def crops(pixels: torch.Tensor, *, least_area: float, flip: bool = False, seed: Sequence[int]) -> torch.Tensor:
    """Return a random crop of each image, resized to the image's size, uint8 [n, 3, h, w].

    pixels: uint8 [n, 3, h, w].
    least_area: least share of the area; 1 returns the images themselves, mirrored if drawn so.
    flip: whether a crop is mirrored with probability 1/2.
    seed: of the draws; each image has its own.

    A crop's area is uniform in [least_area, 1] of the image's, its aspect ratio log-uniform from 3:4 to 4:3, cut to the
    image. Pixels are interpolated bilinearly.
    """
    draw = np.random.default_rng(list(seed))
    count = len(pixels)
    area, aspect = (
        draw.uniform(least_area, 1, count),
        np.exp(draw.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1]), count)),
    )
    across, up, mirrored = draw.uniform(-1, 1, count), draw.uniform(-1, 1, count), draw.random(count) < 0.5
    if least_area >= 1:
        chosen = torch.from_numpy(mirrored & flip)[:, None, None, None]
        return torch.where(chosen, pixels.flip(-1), pixels)
    width, height = np.minimum(np.sqrt(area * aspect), 1), np.minimum(np.sqrt(area / aspect), 1)  # shares of the sides
    affine = torch.zeros(count, 2, 3)
    affine[:, 0, 0] = torch.from_numpy(np.where(mirrored & flip, -width, width))
    affine[:, 1, 1] = torch.from_numpy(height)
    affine[:, 0, 2] = torch.from_numpy((1 - width) * across)
    affine[:, 1, 2] = torch.from_numpy((1 - height) * up)
    grid = affine_grid(affine, list(pixels.shape), align_corners=False)  # [n, h, w, 2]
    drawn = grid_sample(pixels.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return drawn.round().clamp(0, 255).to(torch.uint8)

"""The protocols that the parts of RAG-CLIP implement; nothing inherits from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from PIL import Image

from rag_clip.data import Features, Fingerprint, LabelSet

Given = TypeVar("Given")
Unit = TypeVar("Unit")
Done = TypeVar("Done")


class Preprocess(Protocol):
    """Turns a decoded RGB image into the model's pixels; picklable, for worker processes.

    Two attributes are optional: `threads`, true if it may run in several threads at once and mostly releases the
    interpreter's lock, so that no processes are needed; and `least_side`, the shorter side to which large JPEGs may be
    reduced while they are decoded (1024 pixels without it).
    """

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return uint8 [height, width, 3], resized and cropped to the model's input."""


@runtime_checkable
class Encoder(Protocol):
    """A frozen image and text tower with one width.

    `scale` is exp(logit_scale) and `bias` the logit bias (0 where the model has none): logits are
    scale * cosine + bias.
    """

    @property
    def name(self) -> str:
        """The specification to load it with."""

    @property
    def dim(self) -> int:
        """Width d of its embeddings."""

    @property
    def scale(self) -> float:
        """exp(logit_scale)."""

    @property
    def bias(self) -> float:
        """Logit bias."""

    @property
    def device(self) -> torch.device:
        """The device that it computes on."""

    @property
    def fingerprint(self) -> Fingerprint:
        """Identifies everything that its vectors depend on."""

    @property
    def preprocess(self) -> Preprocess:
        """The image transform up to uint8 pixels."""

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Embed texts as float32 unit rows [t, d] on `device`."""

    def encode_pixels(self, pixels: torch.Tensor, *, patches: bool = False) -> Features:
        """Embed uint8 pixels [n, 3, height, width] as Features on `device`."""

    def encode_images(self, images: Sequence[Image.Image | bytes], *, patches: bool = False) -> Features:
        """Decode where needed, preprocess and embed images."""


class Workers(Protocol):
    """Where the parts of a job are done: processes of this machine, or actors of a cluster, each with the encoder."""

    @property
    def count(self) -> int:
        """How many there are."""

    @property
    def remote(self) -> bool:
        """Whether they may be on other machines, so that outputs must lie where all machines see them."""

    def run(
        self, work: Callable[[Encoder, Given, Unit], Done], *, encoder: Encoder, given: Given, units: Sequence[Unit]
    ) -> Iterator[Done]:
        """Yield `work(encoder, given, unit)` of all units as they are done, in no order.

        `work` is a function of a module; `given` and the units can be pickled, and `given` goes to each worker once.
        """


class Painter(Protocol):
    """Makes images from texts; the same text and seed give the same image."""

    @property
    def name(self) -> str:
        """The specification to load it with."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that an image depends on besides text and seed, such as weights, steps and guidance; JSON values."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of its images."""

    def paint(self, texts: Sequence[str], *, seeds: Sequence[int]) -> Sequence[Image.Image]:
        """Return one image of `size` per text, in order, from its own seed; black if it was withheld."""


class Classifier(Protocol):
    """Maps image features to logits over its labels."""

    @property
    def labels(self) -> LabelSet:
        """The c classes, in the order of the logits' columns."""

    def __call__(self, features: Features) -> torch.Tensor:
        """Return logits [n, c] on the device of the features."""


def has_trained_bias(encoder: Encoder) -> bool:
    """Return whether the bias was trained, as in SigLIP, so that sigmoid(logit) is a probability.

    An encoder says so by an attribute `trained_bias`; one without it has none.
    """
    return bool(getattr(encoder, "trained_bias", False))

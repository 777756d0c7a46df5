"""SuS-SD: a support set of images painted from class prompts, without any real image of the classes.

Udandarao, Gupta and Albanie, 2023, "SuS-X: Training-Free Name-Only Transfer of Vision-Language Models" (ICCV 2023,
arXiv 2211.16198): a text-to-image model paints up to 100 images per class, from one template or from sentences that
describe the class. The k' images whose features are closest to the class weight are kept, as in CoMo (Zhang et al.,
2022, arXiv 2209.12255), which keeps 1 to 16. Targets are one-hot.

    kept(c) = the k' images x painted for class c with the largest f_x . w_c

Different from the papers: every image has its own seed, which depends only on the class name and the index of the
image; black images, which safety checkers return for images that they withhold, are dropped; and the share of images
that zero-shot recognises as their class is reported.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image

from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, Prompts, PromptText, Support
from rag_clip.display import counted
from rag_clip.support.retrieved import first_of_each

Wording = Literal["templates", "sentences"]
BLACK = 8  # of 255; black pixels may be this bright after compression


@dataclass(frozen=True, slots=True)
class Synthesis:
    """What is painted for each class, and what of it is kept.

    per_class, keep: images painted per class, and kept of them (SuS-X paints up to 100 and keeps all).
    wording: see `plan_paintings`.
    seed: of the images.
    batch: images painted at once.
    with_images: put the images that are kept into the support file too, for heads with further encoders.

    Raises ValueError for numbers below 1 and an unknown wording.
    """

    per_class: int = 16
    keep: int = 8
    wording: Wording = "templates"
    seed: int = 0
    batch: int = 8
    with_images: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.batch < 1 or self.keep < 1:
            raise ValueError(f"batch is {self.batch} and keep is {self.keep}; give at least 1")
        if self.per_class < 1:
            raise ValueError(f"per_class is {self.per_class}; paint at least 1 image per class")
        if self.wording not in get_args(Wording):
            raise ValueError(f"unknown wording {self.wording!r}; known are {', '.join(get_args(Wording))}")

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the support set, for its provenance."""
        return {"per_class": self.per_class, "keep": self.keep, "wording": self.wording, "seed": self.seed}


@dataclass(frozen=True, slots=True)
class Painting:
    """One image to paint, from `text` and `seed`, for the class with index `row`."""

    row: int
    text: str
    seed: int


@dataclass(frozen=True, slots=True)
class Synthesised:
    """The support set, and by class name the share of painted images that zero-shot recognises (`agreement`)."""

    support: Support
    agreement: Mapping[str, float]


def plan_paintings(
    prompts: Prompts, *, per_class: int, wording: Wording = "templates", seed: int = 0
) -> list[Painting]:
    """Return the images to paint, `per_class` each; the texts of a class take turns, the largest weight first.

    Wording `templates` uses the anchor texts; `sentences` uses the context texts (descriptions and captions), or the
    templates of a class without any. The plan for k images per class is part of that for k + 1. Raises ValueError for
    fewer than one per class and an unknown wording.
    """
    if wording not in get_args(Wording):
        raise ValueError(f"unknown wording {wording!r}; known are {', '.join(get_args(Wording))}")
    if per_class < 1:
        raise ValueError(f"{counted(per_class, 'image')} per class cannot be painted; paint at least 1")
    plan: list[Painting] = []
    for row, (name, group) in enumerate(zip(prompts.labels.names, prompts.texts, strict=True)):
        texts = _texts(group, wording)
        plan += [Painting(row, texts[k % len(texts)], _seed(seed, name, k)) for k in range(per_class)]
    return plan


def is_black(image: Image.Image) -> bool:
    """Return whether the image is black up to compression noise."""
    return int(np.asarray(image.convert("RGB")).max()) <= BLACK


def synthesised_support(
    classifier: ZeroShot,
    features: torch.Tensor,
    classes: np.ndarray,
    references: Sequence[str],
    *,
    keep: int = 8,
    provenance: Mapping[str, Any] | None = None,
) -> Synthesised:
    """Return a support set of the painted images that are closest to their class weights.

    classifier: its class weights and labels.
    features: unit features of the painted images, [m, d].
    classes: the class that each image was painted for, int64 [m].
    references: of the images.
    keep: images per class; of equally close images the first are kept.
    provenance: recorded with the support set.

    Classes without an image are listed as missing. Raises ValueError for `keep` below 1, and for no image at all.
    """
    if keep < 1:
        raise ValueError(f"{counted(keep, 'image')} per class cannot be kept; keep at least 1")
    if not len(classes):
        raise ValueError("no image was painted that can be used; try other texts, seeds or another painter")
    pooled = features.float().cpu()
    placed = torch.from_numpy(classes)
    near = (pooled * classifier.weights.float().cpu()[placed]).sum(1).numpy()  # [m]
    order = np.lexsort((-near, classes))
    kept = order[first_of_each(classes[order], keep)]
    targets = torch.zeros(len(kept), len(classifier.labels))  # [kept, c]
    targets[torch.arange(len(kept)), placed[kept]] = 1
    support = Support(
        classifier.labels,
        pooled[kept],
        targets,
        torch.ones(len(kept)),
        ("synthesised",) * len(kept),
        tuple(references[row] for row in kept.tolist()),
        dict(provenance or {}),
    )
    return Synthesised(support, _agreement(classifier, pooled, classes))


def _agreement(classifier: ZeroShot, pooled: torch.Tensor, classes: np.ndarray) -> dict[str, float]:
    right = classifier(Features(pooled)).argmax(1).numpy() == classes
    painted, recognised = Counter(classes.tolist()), Counter(classes[right].tolist())
    return {classifier.labels.names[row]: recognised[row] / painted[row] for row in sorted(painted)}


def _texts(group: Sequence[PromptText], wording: Wording) -> list[str]:
    role = "anchor" if wording == "templates" else "context"
    # Sorting is stable, so texts with equal weight stay in order.
    chosen = sorted((text for text in group if text.role == role and text.weight > 0), key=lambda text: -text.weight)
    return list(dict.fromkeys(text.text for text in chosen or group))


def _seed(seed: int, name: str, place: int) -> int:
    # 31 bits, which every random generator accepts.
    return int.from_bytes(hashlib.sha256(f"{seed}/{place}/{name}".encode()).digest()[:4], "little") >> 1

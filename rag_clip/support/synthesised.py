"""SuS-SD: images painted from class prompts, as a support set without any image of the classes.

Udandarao, Gupta and Albanie, 2023, "SuS-X: Training-Free Name-Only Transfer of Vision-Language Models" (ICCV 2023,
arXiv 2211.16198): a text-to-image model paints up to 100 images per class, from one template or from sentences that
describe the class. Of those, the k' whose features lie nearest to the embedding of the class stay, as in CoMo (Zhang
et al., 2022, arXiv 2209.12255); CoMo keeps 1 to 16. Targets are one-hot.

    kept(c) = the k' images x painted for class c with the largest f_x . w_c

Ours: every image has a seed of its own, which depends on the class's name and its place alone; black images, which is
what a safety checker leaves of those that it withholds, are no images; the share of images that zero-shot calls by the
name they were painted for is told.
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
from rag_clip.support.retrieved import first_of_each

Wording = Literal["templates", "sentences"]
BLACK = 8  # of 255; what a codec may make of black


@dataclass(frozen=True, slots=True)
class Painting:
    """One image to paint: of the class `row`, from `text` and `seed`."""

    row: int
    text: str
    seed: int


@dataclass(frozen=True, slots=True)
class Synthesised:
    """The support set; by class name, the share of its images that zero-shot calls by that name."""

    support: Support
    agreement: Mapping[str, float]


def plan_paintings(
    prompts: Prompts, *, per_class: int, wording: Wording = "templates", seed: int = 0
) -> list[Painting]:
    """Return what to paint, class by class, `per_class` each; the texts of a class take turns, heaviest first.

    `templates` are the anchor texts; `sentences` the context texts: descriptions and captions, or templates where a
    class has none. The images of k + 1 per class begin with those of k. Raises ValueError for fewer than one per
    class and an unknown wording.
    """
    if wording not in get_args(Wording):
        raise ValueError(f"unknown wording {wording!r}; known are {', '.join(get_args(Wording))}")
    if per_class < 1:
        raise ValueError(f"{per_class} images per class were asked for; paint at least 1")
    plan: list[Painting] = []
    for row, (name, group) in enumerate(zip(prompts.labels.names, prompts.texts, strict=True)):
        texts = _texts(group, wording)
        plan += [Painting(row, texts[k % len(texts)], _seed(seed, name, k)) for k in range(per_class)]
    return plan


def is_black(image: Image.Image) -> bool:
    """Tell whether no pixel is brighter than a codec may make of black."""
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
    """Keep the best of images painted for `classes` int64 [m] of the classifier, with unit `features` [m, d].

    Of images that are equally near, the first stay. Classes without an image are listed as missing. Raises ValueError
    for fewer than one to keep, and where there is no image at all.
    """
    if keep < 1:
        raise ValueError(f"{keep} images per class were to be kept; keep at least 1")
    if not len(classes):
        raise ValueError("no image was painted that can be used; try other texts, seeds or another painter")
    pooled = features.float().cpu()
    placed = torch.from_numpy(classes)
    near = (pooled * classifier.weights.float().cpu()[placed]).sum(1).numpy()
    order = np.lexsort((-near, classes))
    kept = order[first_of_each(classes[order], keep)]
    targets = torch.zeros(len(kept), len(classifier.labels))
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
    # Sorting is stable: of texts that weigh the same, the first come first.
    chosen = sorted((text for text in group if text.role == role), key=lambda text: -text.weight)
    return list(dict.fromkeys(text.text for text in chosen or group))


def _seed(seed: int, name: str, place: int) -> int:
    # 31 bits: what every random generator takes.
    return int.from_bytes(hashlib.sha256(f"{seed}/{place}/{name}".encode()).digest()[:4], "little") >> 1

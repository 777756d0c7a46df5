"""Random supports and the real CLIP features, for the tests of heads in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from inputs.folders import FEATURES
from rag_clip.classifiers.zero_shot import ZeroShot, zero_shot
from rag_clip.data import Features, LabelSet, Prompts, Support, Validation
from rag_clip.prompts.templates import template_prompts
from rag_clip.protocols import Classifier
from rag_clip.testing import ToyEncoder, check_head


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def random_text(classes: int, width: int, scale: float = 20.0) -> ZeroShot:
    draw = torch.Generator().manual_seed(7)
    names = tuple(f"class {row}" for row in range(classes))
    return ZeroShot(LabelSet(names), unit(torch.randn(classes, width, generator=draw)), scale)


def random_support(text: ZeroShot, counts: Sequence[int], *, soft: bool = False, seed: int = 0) -> Support:
    """Draw images around the texts, shifted as images are: counts[k] of class k, with shares and relevance if soft."""
    draw = torch.Generator().manual_seed(seed)
    classes = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    width = text.weights.shape[1]
    noise = torch.randn(len(classes), width, generator=draw) * 0.3
    shift = torch.ones(width) / width**0.5
    rows = unit(text.weights[classes] + noise + shift)
    targets = torch.nn.functional.one_hot(classes, len(counts)).float()
    relevance = torch.ones(len(rows))
    if soft:
        targets = 0.75 * targets + 0.25 * targets.roll(1, 0)
        relevance = 0.5 + 0.5 * torch.rand(len(rows), generator=draw)
    references = tuple(str(row) for row in range(len(rows)))
    return Support(text.labels, rows, targets, relevance, ("shot",) * len(rows), references)


def real_shots(
    model: str, shots: int, seed: int, *, without: int = 0
) -> tuple[ZeroShot, Support, Features, torch.Tensor]:
    """Return text, k shots of each class but the first `without`, and the other images with their labels."""
    data = np.load(FEATURES / f"whurs19_CLIP_{model}.npz")
    images, text = (unit(torch.from_numpy(rows.astype(np.float32))) for rows in (data["image"], data["text"][-1]))
    labels = torch.from_numpy(data["label"])
    draw = np.random.default_rng(seed)
    rows = [draw.permutation(np.flatnonzero(data["label"] == name))[:shots] for name in range(without, len(text))]
    chosen = torch.from_numpy(np.concatenate(rows))
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[chosen] = False
    classifier = ZeroShot(LabelSet(tuple(data["classes"].tolist())), text, 100.0)
    targets = torch.nn.functional.one_hot(labels[chosen], len(text)).float()
    references = tuple(map(str, chosen.tolist()))
    support = Support(
        classifier.labels, images[chosen], targets, torch.ones(len(chosen)), ("shot",) * len(chosen), references
    )
    return classifier, support, Features(images[rest]), labels[rest]


def as_validation(support: Support) -> Validation:
    return Validation(Features(support.features), support.labels, support.shares.argmax(1))


def check_contract(head: Callable[[ZeroShot, Support], Classifier]) -> None:
    """Check the head on uneven, soft support with a class without images."""
    encoder = ToyEncoder()
    prompts = template_prompts(LabelSet(("red", "green", "blue", "yellow")))
    text = zero_shot(prompts, encoder)
    support = random_support(text, [5, 2, 0, 1])
    soft = random_support(text, [5, 2, 2, 1], soft=True)

    def build(given: Prompts, moved: Support) -> Classifier:
        return head(zero_shot(given, encoder), moved)

    for each in (support, soft):
        check_head(build, prompts, each, Features(random_support(text, [2, 2, 2, 1], seed=3).features))

"""A small deterministic encoder, and contract checks for every prompt method, support method and head."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from rag_clip.data import Features, Fingerprint, LabelSet, Prompts, Support
from rag_clip.protocols import Classifier


def square_preprocess(image: Image.Image) -> np.ndarray:
    """Resize to 8 x 8 RGB."""
    return np.asarray(image.convert("RGB").resize((8, 8), Image.Resampling.BICUBIC))


@dataclass(frozen=True, slots=True)
class ToyEncoder:
    """An encoder without a model: texts are hashed bags of words, images are mean colours, in one space.

    A text that names a colour ("red") is close to images of that colour, so retrieval and matching are meaningful.
    """

    dim: int = 32
    scale: float = 20.0
    bias: float = 0.0
    name: str = "toy"
    trained_bias: bool = False

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    @property
    def fingerprint(self) -> Fingerprint:
        """Depends on the width, so that encoders of two widths do not agree."""
        return Fingerprint(model=self.name, pretrained="", weights=f"toy-{self.dim}", preprocessing="8x8")

    @property
    def preprocess(self):  # type: ignore[no-untyped-def]
        """8 x 8 bicubic."""
        return square_preprocess

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Sum a fixed vector per word; float32 unit rows [t, d]."""
        rows = [
            sum((self._word(word) for word in text.lower().split()), torch.full((self.dim,), 1e-3)) for text in texts
        ]
        stacked = torch.stack(rows) if rows else torch.zeros(0, self.dim)
        return torch.nn.functional.normalize(stacked, dim=-1)

    def encode_pixels(self, pixels: torch.Tensor, *, patches: bool = False) -> Features:
        """Mix the vectors of red, green and blue by the mean colour; patches are the four quadrants."""
        words = torch.stack([self._word(word) for word in ("red", "green", "blue")])
        values = pixels.float() / 255 + 1e-3
        pooled = torch.nn.functional.normalize(values.mean((2, 3)) @ words, dim=-1)
        quadrants = torch.nn.functional.adaptive_avg_pool2d(values, 2).flatten(2).transpose(1, 2) @ words
        return Features(pooled, torch.nn.functional.normalize(quadrants, dim=-1) if patches else None)

    def encode_images(self, images: Sequence[Image.Image | bytes], *, patches: bool = False) -> Features:
        """Decode where needed, preprocess and embed images."""
        from rag_clip.models.decode import decode_image

        decoded = [decode_image(image) if isinstance(image, bytes) else image for image in images]
        pixels = np.stack([square_preprocess(image) for image in decoded])
        return self.encode_pixels(torch.from_numpy(pixels).permute(0, 3, 1, 2), patches=patches)

    def _word(self, word: str) -> torch.Tensor:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:6], "little")
        return torch.randn(self.dim, generator=torch.Generator().manual_seed(seed))


def permute_labels(labels: LabelSet, order: Sequence[int]) -> LabelSet:
    """Return the label set with class order[i] in place i."""
    columns = {name: getattr(labels, name) for name in ("names", "ids", "synonyms", "groups")}
    return replace(labels, **{name: tuple(values[row] for row in order) for name, values in columns.items()})


def permute_prompts(prompts: Prompts, order: Sequence[int]) -> Prompts:
    """Return the prompts with class order[i] in place i."""
    return replace(
        prompts, labels=permute_labels(prompts.labels, order), texts=tuple(prompts.texts[row] for row in order)
    )


def check_prompts(make: Callable[[LabelSet], Prompts], labels: LabelSet) -> None:
    """Assert the contract of a prompt method: one group of texts per class, in class order, the same on every call.

    Context texts name their evidence, and permuting the classes permutes the groups and changes nothing else.
    """
    prompts = make(labels)
    assert prompts.labels == labels, "the label set changed"
    assert make(labels) == prompts, "a second call gave other prompts"
    texts = [text for group in prompts.texts for text in group]
    assert all(text.text.strip() for text in texts), "a text is empty"
    assert all(text.evidence for text in texts if text.role == "context"), "a context text has no evidence"
    for name, group in zip(labels.names, prompts.texts, strict=True):
        evidence = [text.evidence for text in group if text.evidence]
        assert len(set(evidence)) == len(evidence), f"evidence repeats in class {name!r}"
    order = [*range(1, len(labels), 2), *range(0, len(labels), 2)]
    permuted = make(permute_labels(labels, order))
    assert permuted == permute_prompts(prompts, order), "permuting the classes changed their texts"


def check_classifier(build: Callable[[Prompts], Classifier], prompts: Prompts, features: Features) -> None:
    """Assert the contract of a classifier: finite logits [n, c] that depend only on the image and the classes.

    The logits of an image are the same in any batch, permuting the classes permutes the columns, device and dtype are
    those of the features, the logits have no gradient, and the features are not changed.
    """
    classifier = build(prompts)
    before = features.pooled.clone()
    logits = classifier(features)
    tolerance = 1e-5 * max(1.0, float(logits.abs().max()))
    assert classifier.labels == prompts.labels, "the label set changed"
    assert logits.shape == (len(features.pooled), len(prompts.labels)), f"logits have shape {tuple(logits.shape)}"
    assert bool(logits.isfinite().all()), "a logit is not finite"
    assert not logits.requires_grad, "the logits keep a gradient"
    assert torch.equal(features.pooled, before), "the features were changed"
    for size in (1, 3):
        batches = [_rows(features, start, start + size) for start in range(0, len(features.pooled), size)]
        apart = torch.cat([classifier(batch) for batch in batches])
        assert torch.allclose(apart, logits, rtol=0, atol=tolerance), f"batches of {size} changed the logits"
    order = [*range(1, len(prompts.labels), 2), *range(0, len(prompts.labels), 2)]
    permuted = build(permute_prompts(prompts, order))(features)
    assert torch.allclose(permuted, logits[:, order], rtol=0, atol=tolerance), "permuting classes changed more"
    for dtype in (torch.float64, torch.bfloat16):
        patches = None if features.patches is None else features.patches.to(dtype)
        others = {name: values.to(dtype) for name, values in features.others.items()}
        cast = classifier(replace(features, pooled=features.pooled.to(dtype), patches=patches, others=others))
        assert (cast.dtype, cast.device) == (dtype, features.pooled.device), f"{dtype} became {cast.dtype}"


def permute_support(support: Support, order: Sequence[int]) -> Support:
    """Return the support set with class order[i] in place i."""
    return support.arrange(permute_labels(support.labels, order))


def check_support(support: Support, labels: LabelSet) -> None:
    """Assert the contract of a support method: unit rows, the same labels, every class present or listed as missing."""
    assert support.labels == labels, "the label set changed"
    lengths = torch.linalg.vector_norm(support.features.double(), dim=1)
    assert torch.allclose(lengths, torch.ones_like(lengths), atol=1e-3), "a feature is not of unit length"
    present = {name for name, mass in zip(labels.names, support.shares.sum(0).tolist(), strict=True) if mass > 0}
    assert present | set(support.missing) == set(labels.names), "a class is neither present nor listed as missing"
    assert set(support.origin) <= {"shot", "corrected", "retrieved", "synthesised"}, (
        f"unknown origin in {set(support.origin)}"
    )
    assert all(support.references), "an image has no reference"


def check_head(
    build: Callable[[Prompts, Support], Classifier], prompts: Prompts, support: Support, features: Features
) -> None:
    """Assert the contract of a head: that of a classifier, with the classes of prompts and support permuted together.

    The order of the support images must make no difference.
    """

    def follow(moved: Prompts) -> Classifier:
        order = [prompts.labels.names.index(name) for name in moved.labels.names]
        return build(moved, permute_support(support, order))

    check_classifier(follow, prompts, features)
    rows = list(reversed(range(len(support))))
    turned = replace(
        support,
        features=support.features[rows],
        targets=support.targets[rows],
        relevance=support.relevance[rows],
        origin=tuple(support.origin[row] for row in rows),
        references=tuple(support.references[row] for row in rows),
        others={name: values[rows] for name, values in support.others.items()},
        pixels=None if support.pixels is None else support.pixels[rows],
    )
    logits, other = build(prompts, support)(features), build(prompts, turned)(features)
    tolerance = 1e-4 * max(1.0, float(logits.abs().max()))
    assert torch.allclose(other, logits, rtol=0, atol=tolerance), "the order of the support images changed the logits"


def _rows(features: Features, start: int, stop: int) -> Features:
    patches = None if features.patches is None else features.patches[start:stop]
    others = {name: values[start:stop] for name, values in features.others.items()}
    return Features(features.pooled[start:stop], patches, features.ids[start:stop], others)

"""Zero-shot classification from weighted texts: the prompt ensemble, and RePE's mixture for retrieved captions.

For class c with anchor texts t_j of weights a_j (sum A), and context texts r_k of weights b_k, all unit vectors:

    w_c = normalise( sum_j (a_j / A) * normalise( A * t_j + sum_k b_k * r_k ) )        logits = scale * f W + bias

Without context this is the plain ensemble of Radford et al., 2021 (arXiv 2103.00020): normalise, average, normalise.
With A = 0.75 and b_k = 0.25 / K it is RePE (Ren et al., Findings of ACL 2023, arXiv 2206.01986). A class whose anchors
have no weight is its context alone. Scale and bias are the encoder's own.

Prompts whose provenance says average = "cosines" are averaged as in DCLIP (Menon and Vondrick, 2023, arXiv 2210.07183):
the cosine with a class is the mean of the cosines with its texts, so w_c = sum_j a_j t_j + sum_k b_k r_k. Its length is
below one, and decreases as the texts of the class differ more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import torch
from torch.nn import functional

from rag_clip.data import (
    EncodedTexts,
    Features,
    Fingerprint,
    LabelSet,
    Prompts,
    PromptText,
    Role,
    check_same_encoder,
    read_fingerprint,
)
from rag_clip.progress import ProgressEvent, Report, silent
from rag_clip.protocols import Encoder, has_trained_bias

TEXTS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True, eq=False)
class ZeroShot:
    """A linear classifier over unit features: `weights` [c, d], the encoder's `scale` and `bias`.

    Rows are unit vectors, except for prompts that are averaged by cosines. With a `trained_bias`, sigmoid(logits) are
    probabilities, see `match`.
    """

    labels: LabelSet
    weights: torch.Tensor
    scale: float
    bias: float = 0.0
    trained_bias: bool = False

    def arrange(self, labels: LabelSet) -> ZeroShot:
        """Return the classifier with its classes in the order of `labels`, which must have the same names."""
        rows = {name: row for row, name in enumerate(self.labels.names)}
        return replace(self, labels=labels, weights=self.weights[[rows[name] for name in labels.names]])

    def __call__(self, features: Features) -> torch.Tensor:
        """Return logits [n, c], on the device and in the dtype of `features.pooled` [n, d]."""
        weights = self.weights.to(features.pooled)
        return self.scale * (features.pooled @ weights.T) + self.bias


def zero_shot(
    prompts: Prompts,
    encoder: Encoder,
    *,
    known: Mapping[str, np.ndarray] | None = None,
    allow_other_encoder: bool = False,
    report: Report = silent,
) -> ZeroShot:
    """Compose the weighted texts of each class into one weight vector, in float32 on the encoder's device.

    prompts: the texts of each class.
    encoder: encodes every distinct text once.
    known: unit vectors [d] of texts, which are then not encoded (see stored_vectors).
    allow_other_encoder: accept prompts that were made with another encoder.
    report: called with the progress.

    Raises ValueError if the prompts were made with another encoder, and if the texts of a class cancel out.
    """
    return zero_shots([prompts], encoder, known=known, allow_other_encoder=allow_other_encoder, report=report)[0]


def zero_shots(
    variants: Sequence[Prompts],
    encoder: Encoder,
    *,
    known: Mapping[str, np.ndarray] | None = None,
    allow_other_encoder: bool = False,
    report: Report = silent,
) -> list[ZeroShot]:
    """Compose several prompts as `zero_shot` does, encoding shared texts once; to compare weights of the same texts."""
    texts = encode_texts(variants, encoder, known=known, allow_other_encoder=allow_other_encoder, report=report)
    return [compose(prompts, texts, encoder) for prompts in variants]


@dataclass(frozen=True, slots=True, eq=False)
class TextVectors:
    """The distinct texts of prompts: the row of each, and unit vectors [t, d], float32 on the encoder's device."""

    rows: Mapping[str, int]
    vectors: torch.Tensor

    def of(self, group: Sequence[PromptText]) -> torch.Tensor:
        """Return the vectors [t, d] of a class's texts, in their order."""
        return self.vectors[[self.rows[text.text] for text in group]]

    def encoded_by(self, encoder: Encoder) -> EncodedTexts:
        """Return the vectors in memory as `Prompts.encoded` has them."""
        return EncodedTexts(tuple(self.rows), self.vectors.cpu().numpy(), encoder.fingerprint, encoder.device.type)


@torch.no_grad()
def encode_texts(
    variants: Sequence[Prompts],
    encoder: Encoder,
    *,
    known: Mapping[str, np.ndarray] | None = None,
    allow_other_encoder: bool = False,
    report: Report = silent,
) -> TextVectors:
    """Encode every distinct text of the prompts once, except those whose vectors are known already.

    These are in `known`, or come with the prompts (see `Prompts.encoded`), which are exact and come first. The
    parameters are those of `zero_shot`. Raises ValueError for another encoder, as `zero_shot` does.
    """
    known = {**(known or {}), **encoded_before(variants, encoder)}
    if not allow_other_encoder:
        for prompts in variants:
            check_prompts_encoder(prompts, encoder.fingerprint)
    distinct = dict.fromkeys(text.text for prompts in variants for group in prompts.texts for text in group)
    texts = [text for text in distinct if text not in known]
    given = [text for text in distinct if text in known]
    parts = [torch.from_numpy(np.stack([known[text] for text in given])).float().to(encoder.device)] if given else []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        parts.append(encoder.encode_text(texts[start : start + TEXTS_AT_ONCE]).float())
        report(ProgressEvent("prompts", min(start + TEXTS_AT_ONCE, len(texts)), len(texts), "texts"))
    return TextVectors({text: row for row, text in enumerate([*given, *texts])}, torch.cat(parts))


def encoded_before(variants: Sequence[Prompts], encoder: Encoder) -> dict[str, np.ndarray]:
    """Return the vectors [d] of texts, by text, that the prompts have from this encoder on this kind of device."""
    sources = dict.fromkeys(prompts.encoded for prompts in variants)
    encoded = [source.read() for source in sources if source is not None]
    return {
        text: vector
        for texts in encoded
        if texts is not None and texts.vectors.shape[1] == encoder.dim
        for text, vector in texts.vectors_for(encoder.fingerprint, encoder.device.type).items()
    }


@torch.no_grad()
def compose(prompts: Prompts, texts: TextVectors, encoder: Encoder) -> ZeroShot:
    """Compose texts that are already encoded; raises ValueError if the texts of a class cancel out."""
    cosines = averages_cosines(prompts)
    summed = _sum(prompts, texts) if cosines else _mix(prompts, texts)
    unit = _normalised(summed, prompts.labels)
    weights = summed if cosines else unit
    return ZeroShot(prompts.labels, weights, float(encoder.scale), float(encoder.bias), has_trained_bias(encoder))


def averages_cosines(prompts: Prompts) -> bool:
    """Return whether cosines are averaged instead of vectors; raises ValueError for another kind of average."""
    average = prompts.recorded.average
    if average not in ("vectors", "cosines"):
        raise ValueError(f"the prompts' provenance has the average {average!r}; write vectors or cosines")
    return bool(average == "cosines")


@torch.no_grad()
def text_coefficients(group: Sequence[PromptText], vectors: torch.Tensor, *, cosines: bool = False) -> torch.Tensor:
    """Return the coefficients [t] of the texts in the class weight: coefficients [t] @ `vectors` [t, d] = w_c [d].

    If `cosines` are averaged, these are the weights of the texts.

    With n_j = |A t_j + sum_k b_k r_k| and z the length of the sum before it is normalised, anchor j has (a_j / n_j) / z
    and context k has b_k * sum_j (a_j / n_j) / A / z. `group` are the texts of one class, which must not cancel out.
    Computed in float64 on the CPU.
    """
    vectors = vectors.cpu().double()
    weights = torch.tensor([text.weight for text in group], dtype=torch.float64)
    if cosines:
        return weights
    is_anchor = torch.tensor([text.role == "anchor" for text in group])
    anchors, contexts = weights * is_anchor, weights * ~is_anchor
    mass = anchors.sum()
    if mass > 0:
        lengths = torch.linalg.vector_norm(mass * vectors + contexts @ vectors, dim=-1).clamp(min=1e-12)
        contexts = contexts * (anchors / lengths).sum() / mass
        anchors = anchors / lengths
    unscaled = anchors + contexts
    coefficients: torch.Tensor = unscaled / torch.linalg.vector_norm(unscaled @ vectors)
    return coefficients


def _normalised(weights: torch.Tensor, labels: LabelSet) -> torch.Tensor:
    lengths = torch.linalg.vector_norm(weights, dim=-1, keepdim=True)
    if float(lengths.min()) < 1e-6:
        name = labels.names[int(lengths.argmin())]
        raise ValueError(f"the texts of class {name!r} cancel out, their weighted sum is zero; change its texts")
    unit: torch.Tensor = weights / lengths
    return unit


@dataclass(frozen=True, slots=True, eq=False)
class _Bags:
    """The texts of one role: encoded row [t], weight [t] and class [t], and the offset [c] of each class's first."""

    rows: torch.Tensor
    weights: torch.Tensor
    offsets: torch.Tensor
    classes: torch.Tensor


def _sum(prompts: Prompts, texts: TextVectors) -> torch.Tensor:
    bags = [_bags(prompts, role, texts.rows, texts.vectors.device) for role in get_args(Role)]
    parts = [_weighted_sum(texts.vectors, bag.rows, bag) for bag in bags]  # [c, d] each
    return torch.stack(parts).sum(0)


def _mix(prompts: Prompts, texts: TextVectors) -> torch.Tensor:
    vectors = texts.vectors
    mass = [sum(text.weight for text in group if text.role == "anchor") for group in prompts.texts]
    anchors = _bags(prompts, "anchor", texts.rows, vectors.device)
    contexts = _bags(prompts, "context", texts.rows, vectors.device)
    context = _weighted_sum(vectors, contexts.rows, contexts)  # [c, d]
    anchor_mass = torch.tensor(mass, dtype=vectors.dtype, device=vectors.device)[:, None]
    mixed = functional.normalize(
        anchor_mass[anchors.classes] * vectors[anchors.rows] + context[anchors.classes], dim=-1
    )
    ensemble = _weighted_sum(mixed, torch.arange(len(mixed), device=mixed.device), anchors)  # [c, d]
    return torch.where(anchor_mass > 0, ensemble / anchor_mass.clamp(min=torch.finfo(mixed.dtype).tiny), context)


def _bags(prompts: Prompts, role: Role, position: Mapping[str, int], device: torch.device) -> _Bags:
    rows: list[int] = []
    weights: list[float] = []
    offsets: list[int] = []
    classes: list[int] = []
    for index, group in enumerate(prompts.texts):
        offsets.append(len(rows))
        chosen = [text for text in group if text.role == role and text.weight != 0]
        rows.extend(position[text.text] for text in chosen)
        weights.extend(text.weight for text in chosen)
        classes.extend([index] * len(chosen))
    return _Bags(
        torch.tensor(rows, dtype=torch.int64, device=device),
        torch.tensor(weights, dtype=torch.float32, device=device),
        torch.tensor(offsets, dtype=torch.int64, device=device),
        torch.tensor(classes, dtype=torch.int64, device=device),
    )


def _weighted_sum(vectors: torch.Tensor, rows: torch.Tensor, bags: _Bags) -> torch.Tensor:
    return functional.embedding_bag(rows, vectors, bags.offsets, mode="sum", per_sample_weights=bags.weights)


def check_prompts_encoder(prompts: Prompts, encoder: Fingerprint) -> None:
    """Raise ValueError if the prompts are known to be made with another encoder; an unknown encoder passes."""
    if recorded := prompts.recorded.encoder:
        advice = "enhance the labels again with this encoder (in Python, allow_other_encoder=True takes them as is)"
        check_same_encoder(read_fingerprint(recorded), encoder, what="the prompts were made", advice=advice)

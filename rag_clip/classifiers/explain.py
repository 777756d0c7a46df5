"""Why a class weight is what it is, and why an image gets one class and not another, in numbers that add up.

A class weight is a sum over its texts, w_c = sum_k q_k r_k (classifiers.zero_shot.text_coefficients). So for an image
f, with the encoder's scale s and bias, text k contributes s q_k <f, r_k>, and

    logit_c = bias + sum_k s q_k <f, r_k>              gap = logit_winner - logit_rival

The contributions of both classes are large and nearly equal. What separates the classes is the lift: the contribution
minus the text's share of m, the mean of the two logits without the bias:

    lift_k = s q_k <f, r_k> - m q_k / sum q            gap = sum lift_k (winner) - sum lift_k (rival)

A text with a positive lift is closer to the image than a tie requires. Computed in float64.

With evidence of images beside the texts (`classifiers.anchored`, `refinement.batch`) the logits have further parts,
those of each source and of the prior, each with a lift of its own (`likelihoods.split_decision`), and the gap is the
sum over all parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch.nn.functional import normalize

from rag_clip.classifiers.likelihoods import SourcePart
from rag_clip.classifiers.match import match
from rag_clip.classifiers.zero_shot import (
    TextVectors,
    ZeroShot,
    averages_cosines,
    compose,
    encode_texts,
    text_coefficients,
)
from rag_clip.data import Features, LabelSet, Prompts, PromptText
from rag_clip.display import counted
from rag_clip.progress import Report, silent
from rag_clip.prompts.knowledge.names import match_names
from rag_clip.protocols import Classifier, Encoder
from rag_clip.words import near_names

ROUNDING = 1e-3  # logits are float32


@dataclass(frozen=True, slots=True)
class TextShare:
    """A text of a class, and its share q_k <w_c, r_k> / |w_c|^2 of the class weight; a class's shares sum to one."""

    prompt: PromptText
    share: float


@dataclass(frozen=True, slots=True)
class Competitor:
    """Another class, and the cosine of its weight with the weight of the explained class, before and after."""

    label: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class LabelExplanation:
    """The texts of a class, largest share first, and its nearest competitors, nearest after first.

    The confusion is 1 - softmax_c'(s * cos(w_c, w_c'))_c: the probability that an image exactly at the class weight is
    given to other classes. `chosen` says what images decided about its texts, or nothing (see refinement.choose_texts).
    """

    label: str
    texts: tuple[TextShare, ...]
    competitors: tuple[Competitor, ...]
    confusion_before: float
    confusion_after: float
    chosen: str = ""


@dataclass(frozen=True, slots=True)
class TextEffect:
    """A text, its cosine with the image, and its contributions to the logit and to the gap (the lift)."""

    prompt: PromptText
    cosine: float
    contribution: float
    lift: float


@dataclass(frozen=True, slots=True)
class ClassEffect:
    """A class for one image: its logit, its probability among all classes, and its texts, largest |lift| first.

    `alone` is its logit from the texts alone, which is its logit where there is no evidence of images. `chosen` is as
    in `LabelExplanation`.
    """

    label: str
    logit: float
    probability: float
    texts: tuple[TextEffect, ...]
    chosen: str = ""
    alone: float = 0.0


@dataclass(frozen=True, slots=True)
class SourceEffect:
    """A part of a decision between two classes: what it adds to the gap, and its share of each class's mean.

    source: text, the origin of images (shot, corrected, retrieved, synthesised), batch for those of the file, prior
        for the frequency of the classes, or rest: classes without images keep the probability that texts give them.
    winner, rival: what it adds to the logit of each, compared with a tie; for text, the lifts of all texts among it.
    gap: winner - rival; those of all parts sum to the gap of the logits.
    shares: of the source in where the two classes stand among the images, or None for what has no share.
    """

    source: str
    winner: float
    rival: float
    gap: float
    shares: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """How images are classified with evidence of images beside the texts.

    classifier: its logits.
    split: returns, for an image [d] and two classes, what each source adds to their logits.
    """

    classifier: Classifier
    split: Callable[[torch.Tensor, tuple[int, int]], Sequence[SourcePart]]


@dataclass(frozen=True, slots=True)
class ImageExplanation:
    """The class predicted for an image, the class it is compared with, and the gap between their logits.

    `sources` are the parts of the gap where images are evidence beside the texts; () for texts alone.
    """

    winner: ClassEffect
    rival: ClassEffect
    gap: float
    scale: float
    bias: float
    sources: tuple[SourceEffect, ...] = ()


def choice_of(prompts: Prompts, label: str) -> str:
    """Return what images decided about the texts of a class, in a sentence; '' for prompts that they did not choose."""
    facts = prompts.recorded.chosen
    if not facts:
        return ""
    changed = facts["changed"].get(label)
    texts, gain = (changed["texts"], f", by {changed['gain']:.1f} nats") if changed else (facts["best"], "")
    return f"{counted(facts['images'], 'image')} chose the texts of {texts!r}{gain}"


def explain_label(
    label: str,
    prompts: Prompts,
    encoder: Encoder,
    *,
    before: Prompts | None = None,
    count: int = 10,
    report: Report = silent,
) -> LabelExplanation:
    """Return the texts of a class with their shares, and its `count` nearest competitors under `before` and `prompts`.

    label: a class name or one of its synonyms.
    prompts: the prompts to explain.
    encoder: the encoder of the prompts.
    before: the prompts to compare with; by default the anchors of `prompts` alone.
    count: competitors per set of prompts, so that up to 2 * count are returned.
    report: called with the progress of encoding.

    Raises ValueError for an unknown label, for `before` with other classes, and for prompts of another encoder.
    """
    row = find_label(label, prompts.labels)
    before = before or anchors_alone(prompts)
    if before.labels.names != prompts.labels.names:
        raise ValueError(f"the prompts before have other classes than {prompts.labels.names[:3]}...; compare the same")
    texts = encode_texts([before, prompts], encoder, report=report)
    weights = [normalize(compose(variant, texts, encoder).weights.cpu().double()) for variant in (before, prompts)]
    cosines = torch.stack([rows @ rows[row] for rows in weights])  # [2, c]
    confusion = 1 - (encoder.scale * cosines).softmax(dim=1)[:, row]  # [2]
    others = [other for other in range(len(prompts.labels)) if other != row]
    near = {other for line in cosines.tolist() for other in sorted(others, key=lambda c: -line[c])[:count]}
    competitors = [Competitor(prompts.labels.names[other], *cosines[:, other].tolist()) for other in near]
    return LabelExplanation(
        label=prompts.labels.names[row],
        texts=text_shares(prompts, row, texts),
        chosen=choice_of(prompts, prompts.labels.names[row]),
        competitors=tuple(sorted(competitors, key=lambda other: (-other.after, other.label))),
        confusion_before=float(confusion[0]),
        confusion_after=float(confusion[1]),
    )


def explain_image(
    image: Image.Image | bytes,
    prompts: Prompts,
    encoder: Encoder,
    *,
    against: str | None = None,
    decide: Callable[[ZeroShot], Decision] | None = None,
    report: Report = silent,
) -> ImageExplanation:
    """Return which texts decided between the predicted class of an image and the second class, or the class `against`.

    image: the image, decoded or as bytes.
    prompts: the prompts that classify it.
    encoder: the encoder of the prompts.
    against: a class to compare with; if it is the predicted class itself, the second class is used.
    decide: adds evidence of images to the classifier of the texts; None explains the texts alone.
    report: called with the progress of encoding.

    The predicted class is that of `match`. Raises ValueError for an image that cannot be decoded, an unknown label, a
    single class, and prompts of another encoder.
    """
    if len(prompts.labels) < 2:
        raise ValueError(f"{prompts.labels.names[0]!r} is the only class, so nothing is decided; give two or more")
    named = None if against is None else find_label(against, prompts.labels)
    features = Features(encoder.encode_images([image]).pooled.float())
    texts = encode_texts([prompts], encoder, report=report)
    classifier = compose(prompts, texts, encoder)
    decision = None if decide is None else decide(classifier)
    final: Classifier = classifier if decision is None else decision.classifier
    winner, second = match(final, features, top_k=2).labels[0].tolist()
    rows = (winner, second if named is None or named == winner else named)
    logits = final(features)[0].cpu().double()
    probabilities = logits.softmax(dim=0)
    parts = [_parts(prompts, row, texts, features.pooled[0]) for row in rows]
    mean = classifier.scale * sum(float(coefficients @ cosines) for coefficients, cosines in parts) / 2
    first, rival = (
        _effect(prompts, row, probability=float(probabilities[row]), parts=part, mean=mean, encoder=encoder)
        for row, part in zip(rows, parts, strict=True)
    )
    if decision is None:
        return ImageExplanation(first, rival, first.logit - rival.logit, classifier.scale, classifier.bias)
    first, rival = (replace(each, logit=float(logits[row])) for each, row in zip((first, rival), rows, strict=True))
    gap = first.logit - rival.logit
    sources = _sources(first, rival, gap, decision.split(features.pooled[0].cpu(), rows))
    return ImageExplanation(first, rival, gap, classifier.scale, classifier.bias, sources)


def _sources(
    winner: ClassEffect, rival: ClassEffect, gap: float, parts: Sequence[SourcePart]
) -> tuple[SourceEffect, ...]:
    """Return the parts of a gap, the lifts of the texts in that of the text, and what is left as the rest."""
    own = [sum(text.lift for text in effect.texts) for effect in (winner, rival)]
    found = []
    for part in parts:
        lifts = [lift + (texts if part.source == "text" else 0) for lift, texts in zip(part.lifts, own, strict=True)]
        shares = part.shares if any(part.shares) else None
        found.append(SourceEffect(part.source, lifts[0], lifts[1], lifts[0] - lifts[1], shares))
    rest = gap - sum(effect.gap for effect in found)
    return (*found, *([SourceEffect("rest", rest, 0.0, rest)] if abs(rest) > ROUNDING * max(1, abs(gap)) else []))


def anchors_alone(prompts: Prompts) -> Prompts:
    """Return the prompts without context texts; a class whose anchors have no weight keeps all of its texts."""
    return replace(prompts, texts=tuple(map(_anchors, prompts.texts)))


def find_label(name: str, labels: LabelSet) -> int:
    """Return the row of the class with this name or synonym; raises ValueError that lists similar names."""
    rows = match_names(labels, [name]).rows
    if name not in rows:
        close = ", ".join(map(repr, near_names(name, labels.names, most=5, cutoff=0.5)))
        raise ValueError(f"no class is called {name!r} among {len(labels)}; close names: {close or 'none'}")
    return rows[name]


def _anchors(group: tuple[PromptText, ...]) -> tuple[PromptText, ...]:
    anchors = [text for text in group if text.role == "anchor"]
    mass = sum(text.weight for text in anchors)
    return tuple(replace(text, weight=text.weight / mass) for text in anchors) if mass > 0 else group


def text_shares(prompts: Prompts, row: int, texts: TextVectors) -> tuple[TextShare, ...]:
    """Return the texts of class `row` with their shares of its weight, largest first; `texts` has their vectors."""
    group = prompts.texts[row]
    coefficients, vectors = _weighed(prompts, row, texts)
    weight = coefficients @ vectors
    shares = coefficients * (vectors @ weight) / (weight @ weight)
    return tuple(TextShare(group[k], float(shares[k])) for k in shares.argsort(descending=True, stable=True))


def _parts(prompts: Prompts, row: int, texts: TextVectors, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the coefficient of each text of a class and its cosine with the image, both [t]."""
    coefficients, vectors = _weighed(prompts, row, texts)
    return coefficients, vectors @ image.cpu().double()


def _weighed(prompts: Prompts, row: int, texts: TextVectors) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the coefficients [t] and vectors [t, d] of the texts of a class, in float64 on the CPU."""
    vectors = texts.of(prompts.texts[row])
    coefficients = text_coefficients(prompts.texts[row], vectors, cosines=averages_cosines(prompts))
    return coefficients, vectors.cpu().double()


def _effect(
    prompts: Prompts,
    row: int,
    *,
    probability: float,
    parts: tuple[torch.Tensor, torch.Tensor],
    mean: float,
    encoder: Encoder,
) -> ClassEffect:
    coefficients, cosines = parts
    contributions = encoder.scale * coefficients * cosines
    lifts = contributions - mean * coefficients / coefficients.sum()
    effects = [
        TextEffect(text, *numbers)
        for text, *numbers in zip(
            prompts.texts[row], cosines.tolist(), contributions.tolist(), lifts.tolist(), strict=True
        )
    ]
    ordered = tuple(sorted(effects, key=lambda effect: -abs(effect.lift)))
    label = prompts.labels.names[row]
    logit = encoder.bias + float(contributions.sum())
    return ClassEffect(label, logit, probability, ordered, choice_of(prompts, label), logit)

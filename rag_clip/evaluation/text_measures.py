"""How accuracy changes with the vocabulary: as classes are added, and with other names.

From the logits of a run: accuracy as classes are added, which classes are confused, and by what margin. From its texts
alone: alignment and uniformity, adversarial names, and the effect of synonyms.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch

from rag_clip.classifiers.evidence import one_label
from rag_clip.classifiers.zero_shot import ZeroShot, zero_shot
from rag_clip.data import LabelSet, Prompts, SeveralLabels, Targets
from rag_clip.evaluation.results import Measure
from rag_clip.evaluation.rival_names import CandidateTexts, rivals_of, with_synonyms
from rag_clip.evaluation.splits import Test
from rag_clip.metrics.curves import Thieves, class_curve, find_thieves, most_taken
from rag_clip.metrics.geometry import alignment, margins, uniformity
from rag_clip.metrics.openness import label_groups, number_groups
from rag_clip.metrics.stability import swap_synonyms
from rag_clip.metrics.uncertainty import mean_interval
from rag_clip.metrics.vocabulary import adversarial_names
from rag_clip.progress import Report, silent
from rag_clip.prompts.renamed import shared_templates, swap_names
from rag_clip.protocols import Encoder

WORST = 20
SIZES = 40
PAIRS = 50
PAIRS_OF_LABEL = 3
GROUPS = 30
QUANTILES = 20


def measure_texts(
    alone: ZeroShot,
    test: Test,
    prompts: Prompts | None = None,
    encoder: Encoder | None = None,
    candidates: CandidateTexts | None = None,
    *,
    known: Mapping[str, np.ndarray] | None = None,
    report: Report = silent,
) -> tuple[Measure, ...]:
    """Return the measures of texts alone: `alignment`, `uniformity`, and the effect of other names.

    alone: the zero-shot classifier.
    test: the test images.
    prompts: the prompts of `alone`; None for text features of a file.
    encoder: encodes other names; None to measure `alignment` and `uniformity` only.
    candidates: names to add. `adversarial_name` is the accuracy after adding one of the 20 worst, `adversarial_set`
        that after each of a greedily chosen set, and `certified` the accuracy that no set of candidates can lower. A
        candidate that contains the name of a class takes no images of that class.
    known: unit vectors [d] of texts, which are then not encoded.
    report: called with the progress.

    If classes of `prompts` or `test` have synonyms, one name is swapped at a time: `swap_kept`, `swap_accuracy`,
    `swap_recall_before` and `swap_recall` are means over the swaps, the last also by swap. Returns () for multi-label
    images and for a single class.
    """
    truth = test.truth
    if isinstance(truth, SeveralLabels) or len(alone.labels) < 2:
        return ()
    features = test.features.pooled  # [n, d]
    rows = {name: row for row, name in enumerate(alone.labels.names)}
    weights = alone.weights[[rows[name] for name in test.labels.names]].to(features)  # [c, d]
    measures = [
        Measure("alignment", "", alignment(features, truth, weights)),
        Measure("uniformity", "", uniformity(weights)),
    ]
    if prompts is None or encoder is None:
        return tuple(measures)
    named = replace(prompts, labels=with_synonyms(prompts.labels, test.labels))
    if candidates is not None:
        measures += _adversarial(test, weights, named, candidates)
    return (*measures, *_swaps(test, weights, named, encoder, known, report))


def _adversarial(test: Test, weights: torch.Tensor, named: Prompts, texts: CandidateTexts) -> Iterator[Measure]:
    features, rivals = test.features.pooled, rivals_of(named.labels, texts.candidates)
    names = [texts.candidates.names[row] for row in rivals.rows]
    others = texts.weights(shared_templates(named))[list(rivals.rows)].to(features)  # [v, d]
    class_of = {name: row for row, name in enumerate(test.labels.names)}
    speaks = torch.tensor([class_of.get(name, -1) for name in rivals.speaks], device=features.device)  # [v]
    worst = adversarial_names(features, one_label("test set", test.truth), weights, others, speaks=speaks, count=WORST)
    for row, accuracy in zip(worst.worst.tolist(), worst.single_accuracy.tolist(), strict=True):
        yield Measure("adversarial_name", names[row], accuracy)
    for row, accuracy in zip(worst.chosen.tolist(), worst.set_accuracy.tolist(), strict=True):
        yield Measure("adversarial_set", names[row], accuracy)
    yield Measure("certified", "", worst.certified)


def _swaps(
    test: Test,
    weights: torch.Tensor,
    named: Prompts,
    encoder: Encoder,
    known: Mapping[str, np.ndarray] | None,
    report: Report,
) -> Iterator[Measure]:
    swaps = swap_names(named)
    if swaps is None:
        return
    features = test.features.pooled
    renamed = zero_shot(swaps.prompts, encoder, known=known, report=report)
    class_of = {name: row for row, name in enumerate(test.labels.names)}
    classes = torch.tensor([class_of[named.labels.names[row]] for row in swaps.classes], device=features.device)
    truth = one_label("test set", test.truth)
    swapped = swap_synonyms(features, truth, weights, renamed.weights.to(features), classes)
    for metric, values in (
        ("swap_kept", swapped.kept),
        ("swap_accuracy", swapped.accuracy),
        ("swap_recall_before", swapped.recall_before),
        ("swap_recall", swapped.recall),
    ):
        mean = float(values.nanmean())  # classes without images are NaN
        if not math.isnan(mean):
            yield Measure(metric, "", mean)
    for name, value in zip(swaps.prompts.labels.names, swapped.recall.tolist(), strict=True):
        if not math.isnan(value):
            yield Measure("swap_recall", name, value)


def measure_vocabulary(logits: torch.Tensor, truth: Targets, labels: LabelSet) -> tuple[Measure, ...]:
    """Return the measures of the vocabulary, from logits [n, c] and the classes `truth`, int64 [n].

    `accuracy_by_classes`: accuracy for at most 40 vocabulary sizes.
    `taken`: the 50 pairs "label ← thief" with the largest share of the label's images for which the thief scores at
        least as high, at most three per label.
    `margin_last`: mean and quantiles of the margin, the label's logit minus the best other logit.

    If the classes are in groups, also:
    `thieves_mean`: by class, the mean number of other groups that score at least as high as the label.
    `taken_by_group`: share of a group's images for which a group scores at least as high, for up to 30 groups.
    `margin_first`: quantiles of the margin within the label's group, if it has another class.

    Returns () for a single class and for multi-label images. Raises ValueError for logits that are not finite.
    """
    if isinstance(truth, SeveralLabels) or len(labels) < 2:
        return ()
    grouped = label_groups(labels)
    names, groups = grouped or number_groups(labels.names)
    groups = groups.to(truth.device)
    of_images = margins(logits, truth, groups)
    mean = mean_interval(of_images.last)
    return (
        *_curve(logits, truth),
        *_taken(logits, truth, labels),
        *(_by_group(find_thieves(logits, truth, groups), truth, labels, names, groups) if grouped else ()),
        *(_quantiles("margin_first", of_images.first[of_images.first.isfinite()]) if grouped else ()),
        Measure("margin_last", "", mean.value, mean.low, mean.high),
        *_quantiles("margin_last", of_images.last),
    )


def _curve(logits: torch.Tensor, truth: torch.Tensor) -> Iterator[Measure]:
    curve = class_curve(logits, truth)
    classes = len(curve.sizes)
    steps = torch.logspace(0, 1, SIZES, base=classes, dtype=torch.float64).round().long()
    for size in sorted(set(steps.clamp(1, classes).tolist())):
        accuracy = min(1.0, float(curve.accuracy[size - 1]))  # weights sum to one only up to rounding
        yield Measure("accuracy_by_classes", str(size), accuracy)


def _taken(logits: torch.Tensor, truth: torch.Tensor, labels: LabelSet) -> Iterator[Measure]:
    for pair in most_taken(logits, truth, most=PAIRS, of_label=PAIRS_OF_LABEL):
        yield Measure("taken", f"{labels.names[pair.label]} ← {labels.names[pair.thief]}", pair.share)


def _by_group(
    thieves: Thieves, truth: torch.Tensor, labels: LabelSet, names: tuple[str, ...], groups: torch.Tensor
) -> Iterator[Measure]:
    images = torch.bincount(truth, minlength=len(labels))
    for name, count, mean in zip(labels.names, images.tolist(), thieves.mean.tolist(), strict=True):
        if count:
            yield Measure("thieves_mean", name, mean)
    if len(names) > GROUPS:
        return
    counts = torch.zeros_like(thieves.groups[: len(names)]).index_add_(
        0, groups, thieves.groups.nan_to_num() * images[:, None]
    )
    group_images = torch.bincount(groups, weights=images.double(), minlength=len(names))  # [groups]
    for row, own in enumerate(names):
        for column, thief in enumerate(names):
            if group_images[row]:
                yield Measure("taken_by_group", f"{own} ← {thief}", float(counts[row, column] / group_images[row]))


def _quantiles(metric: str, values: torch.Tensor) -> Iterator[Measure]:
    if len(values):
        steps = torch.linspace(0, 1, QUANTILES + 1, dtype=torch.float64, device=values.device)
        for step, value in zip(steps.tolist(), values.double().quantile(steps).tolist(), strict=True):
            yield Measure(metric, f"{step:.2f}", value)

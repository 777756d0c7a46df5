"""What the vocabulary does to a run.

From its logits: accuracy as classes are added, which classes are confused, and by what margin. From its texts alone:
how they lie, which names would take images, and what synonyms change.
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
    """Return the numbers of texts alone: `alignment` and `uniformity`, and what other names would do.

    With `candidates`, `adversarial_name` is the accuracy left when one of the 20 worst names is added,
    `adversarial_set` that after each of a set chosen greedily, `certified` what no candidate can take; a name that
    holds that of a class takes no image of it. Where classes of `prompts` or `test` have synonyms, `swap_kept`,
    `swap_accuracy`, `swap_recall_before` and `swap_recall` are means over the swaps of one name, the last by swap too.
    Texts whose vector is `known` are not encoded again. `prompts` are those of `alone`, None for text features of a
    file. Nothing for images with several labels, or one class.
    """
    truth = test.truth
    if isinstance(truth, SeveralLabels) or len(alone.labels) < 2:
        return ()
    features = test.features.pooled
    held = {name: row for row, name in enumerate(alone.labels.names)}
    weights = alone.weights[[held[name] for name in test.labels.names]].to(features)
    found = [
        Measure("alignment", "", alignment(features, truth, weights)),
        Measure("uniformity", "", uniformity(weights)),
    ]
    if prompts is None or encoder is None:
        return tuple(found)
    named = replace(prompts, labels=with_synonyms(prompts.labels, test.labels))
    if candidates is not None:
        found += _adversarial(test, weights, named, candidates)
    return (*found, *_swaps(test, weights, named, encoder, known, report))


def _adversarial(test: Test, weights: torch.Tensor, named: Prompts, texts: CandidateTexts) -> Iterator[Measure]:
    features, rivals = test.features.pooled, rivals_of(named.labels, texts.candidates)
    names = [texts.candidates.names[row] for row in rivals.rows]
    others = texts.weights(shared_templates(named))[list(rivals.rows)].to(features)
    place = {name: row for row, name in enumerate(test.labels.names)}
    speaks = torch.tensor([place.get(name, -1) for name in rivals.speaks], device=features.device)
    found = adversarial_names(features, one_label("test set", test.truth), weights, others, speaks=speaks, count=WORST)
    for row, left in zip(found.worst.tolist(), found.single_accuracy.tolist(), strict=True):
        yield Measure("adversarial_name", names[row], left)
    for row, left in zip(found.chosen.tolist(), found.set_accuracy.tolist(), strict=True):
        yield Measure("adversarial_set", names[row], left)
    yield Measure("certified", "", found.certified)


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
    place = {name: row for row, name in enumerate(test.labels.names)}
    classes = torch.tensor([place[named.labels.names[row]] for row in swaps.classes], device=features.device)
    truth = one_label("test set", test.truth)
    found = swap_synonyms(features, truth, weights, renamed.weights.to(features), classes)
    for metric, values in (
        ("swap_kept", found.kept),
        ("swap_accuracy", found.accuracy),
        ("swap_recall_before", found.recall_before),
        ("swap_recall", found.recall),
    ):
        mean = float(values.nanmean())
        if not math.isnan(mean):
            yield Measure(metric, "", mean)
    for name, value in zip(swaps.prompts.labels.names, found.recall.tolist(), strict=True):
        if not math.isnan(value):
            yield Measure("swap_recall", name, value)


def measure_vocabulary(logits: torch.Tensor, truth: Targets, labels: LabelSet) -> tuple[Measure, ...]:
    """Return what logits [n, c] say of the vocabulary, for the one label `truth` int64 [n] of each image.

    `accuracy_by_classes` has at most 40 sizes, `taken` the 50 pairs "label ← thief" of the greatest share of the
    label's images, three of a label at most, `margin_last` the quantiles of the label's logit less the best other one,
    and its mean. Where the classes are in groups, also `thieves_mean` by class, `taken_by_group` for up to 30 groups,
    and `margin_first`, within the own group, of the images that have another class there. Nothing for one class alone,
    or where images have several labels. Raises ValueError for logits that are not finite.
    """
    if isinstance(truth, SeveralLabels) or len(labels) < 2:
        return ()
    grouped = label_groups(labels)
    names, groups = grouped or number_groups(labels.names)
    groups = groups.to(truth.device)
    found = margins(logits, truth, groups)
    mean = mean_interval(found.last)
    return (
        *_curve(logits, truth),
        *_taken(logits, truth, labels),
        *(_by_group(find_thieves(logits, truth, groups), truth, labels, names, groups) if grouped else ()),
        *(_quantiles("margin_first", found.first[found.first.isfinite()]) if grouped else ()),
        Measure("margin_last", "", mean.value, mean.low, mean.high),
        *_quantiles("margin_last", found.last),
    )


def _curve(logits: torch.Tensor, truth: torch.Tensor) -> Iterator[Measure]:
    curve = class_curve(logits, truth)
    classes = len(curve.sizes)
    steps = torch.logspace(0, 1, SIZES, base=classes, dtype=torch.float64).round().long()
    for size in sorted(set(steps.clamp(1, classes).tolist())):
        accuracy = min(1.0, float(curve.accuracy[size - 1]))  # weights sum to one but for rounding
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
    held = torch.bincount(groups, weights=images.double(), minlength=len(names))
    for row, own in enumerate(names):
        for column, thief in enumerate(names):
            if held[row]:
                yield Measure("taken_by_group", f"{own} ← {thief}", float(counts[row, column] / held[row]))


def _quantiles(metric: str, values: torch.Tensor) -> Iterator[Measure]:
    if len(values):
        steps = torch.linspace(0, 1, QUANTILES + 1, dtype=torch.float64, device=values.device)
        for step, value in zip(steps.tolist(), values.double().quantile(steps).tolist(), strict=True):
            yield Measure(metric, f"{step:.2f}", value)

"""What the vocabulary does to a run: accuracy as it grows, which classes take whose images, and by what margin."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from rag_clip.data import LabelSet
from rag_clip.evaluation.results import Measure
from rag_clip.metrics.curves import Thieves, class_curve, find_thieves, most_taken
from rag_clip.metrics.geometry import margins
from rag_clip.metrics.openness import label_groups, number_groups
from rag_clip.metrics.uncertainty import mean_interval

SIZES = 40
PAIRS = 50
PAIRS_OF_LABEL = 3
GROUPS = 30
QUANTILES = 20


def measure_vocabulary(logits: torch.Tensor, truth: torch.Tensor, labels: LabelSet) -> tuple[Measure, ...]:
    """Return what logits [n, c] say of the vocabulary, for the one label `truth` int64 [n] of each image.

    `accuracy_by_classes` has at most 40 sizes, `taken` the 50 pairs "label ← thief" of the greatest share of the
    label's images, three of a label at most, `margin_last` the quantiles of the label's logit less the best other one,
    and its mean. Where the classes are in groups, also `thieves_mean` by class, `taken_by_group` for up to 30 groups,
    and `margin_first`, within the own group, of the images that have another class there. Nothing for one class alone,
    or where images have several labels. Raises ValueError for logits that are not finite.
    """
    if truth.ndim == 2 or len(labels) < 2:
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

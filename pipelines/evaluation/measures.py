"""All that is measured of one run, from its logits on the test images of a task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import torch

from rag_clip.data import LabelSet
from rag_clip.evaluate.calibration import brier_score, calibration_error, confidence_of, risk_coverage
from rag_clip.evaluate.curves import group_curve
from rag_clip.evaluate.metrics import count_above, is_right, per_class, predict
from rag_clip.evaluate.openness import number_groups, openness
from rag_clip.evaluate.ranking import mean_average_precision, roc_auc
from rag_clip.evaluate.splits import Test, take_features
from rag_clip.evaluate.task import Metric
from rag_clip.evaluate.uncertainty import Interval, bootstrap, mean_interval
from rag_clip.labels import labels_to_document
from rag_clip.protocols import Classifier

from .results import IMAGES, LABELS, Measure

TOP = 5
IMAGES_AT_ONCE = 1024


def measure(
    logits: torch.Tensor, truth: torch.Tensor, labels: LabelSet, *, metric: Metric = "accuracy"
) -> tuple[Measure, ...]:
    """Return the numbers of logits [n, c]: the `metric` first: accuracy, recall by class, trust, openness of groups.

    `truth` is int64 [n]; where images have several labels, bool [n, c], of which only average precision is measured.
    ROC-AUC is measured where it is the `metric`, of the second of two classes. Raises ValueError for logits that are
    not finite.
    """
    probabilities = logits.double().softmax(1)
    if truth.ndim == 2:
        return (
            Measure("map_11_point", "", mean_average_precision(probabilities, truth, eleven_points=True)),
            Measure("map", "", mean_average_precision(probabilities, truth)),
        )
    ranked = [Measure("roc_auc", "", roc_auc(probabilities[:, 1], truth == 1))] if metric == "roc_auc" else []
    found = (
        *_accuracies(logits, truth, labels),
        *ranked,
        *_trust(logits, truth),
        *_openness(logits, truth, labels),
    )
    return tuple(sorted(found, key=lambda one: one.metric != metric))


@torch.no_grad()
def classify_test(classifier: Classifier, test: Test) -> torch.Tensor:
    """Return logits [n, c] in the order of the test's classes."""
    held = {name: column for column, name in enumerate(classifier.labels.names)}
    columns = [held[name] for name in test.labels.names]
    rows = torch.arange(len(test), device=test.truth.device)
    starts = range(0, len(test), IMAGES_AT_ONCE)
    parts = [classifier(take_features(test.features, rows[start : start + IMAGES_AT_ONCE])) for start in starts]
    return torch.cat(parts)[:, columns].float()


def image_table(
    logits: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor, labels: LabelSet, *, draw: int = 0
) -> pa.Table:
    """Return a row per image (see IMAGES), with the names and groups of the classes in the schema's metadata."""
    columns = [rows, targets, predict(logits, targets), confidence_of(logits), is_right(logits, targets)]
    columns.append(torch.full_like(rows, draw))
    arrays = [
        pa.array(values.cpu().numpy(), field.type, safe=False) for values, field in zip(columns, IMAGES, strict=True)
    ]
    facts = {LABELS: json.dumps(labels_to_document(labels))}
    return pa.table(arrays, schema=IMAGES.with_metadata(facts))


def _accuracies(logits: torch.Tensor, targets: torch.Tensor, labels: LabelSet) -> Iterator[Measure]:
    right = is_right(logits, targets)
    yield _with_interval("accuracy", mean_interval(right))
    if len(labels) > TOP:
        yield _with_interval(f"top{TOP}", mean_interval(count_above(logits, targets) < TOP))
    yield _with_interval("mean_per_class", mean_interval(right, strata=targets))
    table = per_class(logits, targets)
    for name, images, recall in zip(labels.names, table.images.tolist(), table.recall.tolist(), strict=True):
        if images:
            yield Measure("recall", name, recall)


def _trust(logits: torch.Tensor, targets: torch.Tensor) -> Iterator[Measure]:
    yield Measure("ece", "", calibration_error(logits, targets))
    yield Measure("brier", "", brier_score(logits, targets))
    yield Measure("aurc", "", risk_coverage(confidence_of(logits), is_right(logits, targets)).area)


def _openness(logits: torch.Tensor, targets: torch.Tensor, labels: LabelSet) -> Iterator[Measure]:
    """Yield Acc-C, Acc-E and Acc-S, with intervals over the images, where every class has a group and not all one."""
    if len(set(labels.groups)) < 2 or not all(labels.groups):
        return
    groups = number_groups(labels.groups)[1].to(targets.device)
    found = openness(logits, targets, groups)
    extended = found.closed.double() / (found.thieves + 1)
    others = found.count - 1
    for name, value, of_image in (
        ("acc_c", found.acc_c, found.closed.double()),
        ("acc_e", found.acc_e, extended),
        ("acc_s", found.acc_s, extended * (others - found.thieves) / others),
    ):
        drawn = bootstrap(partial(_weighted_mean, of_image.cpu(), found.weights.cpu()), len(targets))
        yield Measure(name, "", value, drawn.low, drawn.high)
    for known, value in enumerate(group_curve(logits, targets, groups).accuracy.tolist(), start=1):
        yield Measure("accuracy_by_groups", str(known), value)


def _weighted_mean(values: torch.Tensor, weights: torch.Tensor, rows: torch.Tensor) -> float:
    return float(values[rows] @ weights[rows] / weights[rows].sum())


def _with_interval(metric: str, found: Interval) -> Measure:
    return Measure(metric, "", found.value, found.low, found.high)

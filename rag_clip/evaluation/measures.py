"""All metrics of one run, from its logits on the test images of a task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import pyarrow as pa
import torch

from rag_clip.data import LabelSet, SeveralLabels, Targets
from rag_clip.evaluation.protocol import parameter_efficiency
from rag_clip.evaluation.results import IMAGES, LABELS, Measure
from rag_clip.evaluation.splits import Test, take_features
from rag_clip.evaluation.task import Metric
from rag_clip.files.labels import labels_to_document
from rag_clip.metrics.accuracy import check_finite, check_logits, count_above, is_right, per_class, predict
from rag_clip.metrics.calibration import brier_scores, calibration_interval, confidence_of, risk_interval
from rag_clip.metrics.curves import openness_intervals
from rag_clip.metrics.openness import label_groups, openness
from rag_clip.metrics.ranking import rank_images, roc_auc
from rag_clip.metrics.uncertainty import Interval, bootstrap, bootstrap_corrected, mean_interval, share_interval
from rag_clip.protocols import Classifier

TOP = 5
IMAGES_AT_ONCE = 1024


def measure(
    logits: torch.Tensor, truth: Targets, labels: LabelSet, *, metric: Metric = "accuracy"
) -> tuple[Measure, ...]:
    """Return the numbers for logits [n, c]: the `metric` first; accuracy, recall by class, trust, openness of groups.

    `truth` is int64 [n]; for SeveralLabels, only average precision is measured. ROC-AUC is measured if it is the
    `metric`, for the second of two classes.

    Intervals describe other samples of images of the same kind. They are Wilson's for the recall of a class, hybrid
    resampling for the calibration error, and the bootstrap for the rest: over the images of each class for means over
    classes, openness and ROC-AUC, over all images for the others, with a correction where the bias is large (average
    precision).

    Raises ValueError for logits that are not finite, for ROC-AUC unless there are two classes, and as `label_groups`.
    """
    if isinstance(truth, SeveralLabels):
        check_finite(logits)
        return average_precisions(logits.double().softmax(1), truth.marks)
    ranked = [_roc_auc(logits, truth)] if metric == "roc_auc" else []
    found = (
        *_accuracies(logits, truth, labels),
        *ranked,
        *_trust(logits, truth),
        *_openness(logits, truth, labels),
    )
    return tuple(sorted(found, key=lambda one: one.metric != metric))


def average_precisions(scores: torch.Tensor, labels: torch.Tensor) -> tuple[Measure, ...]:
    """Return the mean over classes of average precision of `scores` [n, c], at eleven points and plain.

    `labels` are bool [n, c]. The scores of a head that learned several labels are its logits; the scores of texts are
    probabilities over the classes, as in ELEVATER. Raises ValueError as `rank_images`.
    """
    ranking, count = rank_images(scores.double().cpu(), labels.cpu()), len(labels)

    def measure(rows: torch.Tensor) -> list[float]:
        means: list[float] = ranking.precision(torch.bincount(rows, minlength=count)).nanmean(1).tolist()
        return means

    plain, eleven = bootstrap_corrected(measure, count)
    return _with_interval("map_11_point", eleven), _with_interval("map", plain)


@torch.no_grad()
def classify_test(classifier: Classifier, test: Test) -> torch.Tensor:
    """Return logits [n, c] in the order of the test set's classes."""
    column_of = {name: column for column, name in enumerate(classifier.labels.names)}
    columns = [column_of[name] for name in test.labels.names]
    rows = torch.arange(len(test), device=test.truth.device)
    starts = range(0, len(test), IMAGES_AT_ONCE)
    parts = [classifier(take_features(test.features, rows[start : start + IMAGES_AT_ONCE])) for start in starts]
    return torch.cat(parts)[:, columns].float()


def image_table(
    logits: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor, labels: LabelSet, *, draw: int = 0
) -> pa.Table:
    """Return a row per image (see IMAGES), with the names and groups of the classes in the schema's metadata.

    logits: [n, c].
    targets: the classes of the images, int64 [n].
    rows: their rows in the task's files, int64 [n].
    labels: the c classes.
    draw: the number of the draw of shots.
    """
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
    for name, images, correct in zip(labels.names, table.images.tolist(), table.right.tolist(), strict=True):
        if images:
            yield _with_interval("recall", share_interval(correct, images), name)


def _trust(logits: torch.Tensor, targets: torch.Tensor) -> Iterator[Measure]:
    confidence, right = confidence_of(logits).cpu(), is_right(logits, targets).cpu()
    yield _with_interval("ece", calibration_interval(confidence, right))
    yield _with_interval("brier", mean_interval(brier_scores(logits, targets)))
    yield _with_interval("aurc", risk_interval(confidence, right))


def _openness(logits: torch.Tensor, targets: torch.Tensor, labels: LabelSet) -> Iterator[Measure]:
    """Yield Acc-C, Acc-E, Acc-S and the curve that they average, if there are two groups of classes or more."""
    grouping = label_groups(labels)
    if grouping is None:
        return
    groups = grouping[1].to(targets.device)
    curves = openness_intervals(openness(logits, targets, groups), targets, groups)
    for name, each in (("acc_c", curves.acc_c), ("acc_e", curves.acc_e), ("acc_s", curves.acc_s)):
        yield _with_interval(name, each)
    for known, each in enumerate(curves.curve, start=1):
        yield _with_interval("accuracy_by_groups", each, str(known))


def _roc_auc(logits: torch.Tensor, targets: torch.Tensor) -> Measure:
    if logits.shape[1] != 2:
        raise ValueError(f"ROC-AUC ranks images of two classes, and there are {logits.shape[1]}; use another metric")
    check_logits(logits, targets)
    scores, positive = logits.double().softmax(1)[:, 1].cpu(), (targets == 1).cpu()
    (interval,) = bootstrap(lambda rows: [roc_auc(scores[rows], positive[rows])], len(scores), strata=positive.long())
    return _with_interval("roc_auc", interval)


def _with_interval(metric: str, interval: Interval, item: str = "") -> Measure:
    return Measure(metric, item, interval.value, interval.low, interval.high)


@runtime_checkable
class Trained(Protocol):
    """A classifier that reports how many values were trained; 0 if it was built in closed form."""

    @property
    def parameters(self) -> int:
        """The number of trained values."""


def measure_cost(classifier: Classifier, main: Measure) -> tuple[Measure, ...]:
    """Return `parameters` and ELEVATER's `parameter_efficiency` of the main metric; nothing if nothing was trained."""
    if not isinstance(classifier, Trained) or not classifier.parameters:
        return ()
    count = classifier.parameters
    value = parameter_efficiency(main.value, count)
    low, high = (None if bound is None else parameter_efficiency(bound, count) for bound in (main.low, main.high))
    return (
        Measure("parameters", "", float(count)),
        Measure("parameter_efficiency", "", value, low, high),
    )

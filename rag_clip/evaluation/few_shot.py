"""Heads on few shots: drawn several times, each draw measured on its own, numbers reported over the draws.

Shots come from the train split of a task. A task without one draws them from its own images and measures on the rest.
If all images of the train split are used (full shot), there is one draw, and its numbers have the usual intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import fmean, stdev

import pyarrow as pa
import torch

from rag_clip.classifiers.anchored import held_evidence
from rag_clip.classifiers.heads import build_head
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, SeveralLabels
from rag_clip.evaluation.image_tasks import ImageTask, Measured, describe_failures
from rag_clip.evaluation.measures import average_precisions, classify_test, image_table, measure, measure_cost
from rag_clip.evaluation.protocol import draw_from_whole, draw_shots, inner_split
from rag_clip.evaluation.results import Measure, Result
from rag_clip.evaluation.settings import ImageCounts
from rag_clip.evaluation.shot_runs import ALL, ShotRun, Shots
from rag_clip.evaluation.splits import Test, Train
from rag_clip.evaluation.text_measures import measure_vocabulary
from rag_clip.images.labelled import Labelled
from rag_clip.protocols import Classifier, Encoder
from rag_clip.refinement.batch import images_to_refine, refine
from rag_clip.refinement.sampling import sample_images

HIGHEST = {"brier": 2.0, "parameters": inf}  # the upper bound of all other metrics is 1; the lower bound of all is 0


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The images of a train split that shots are drawn from, and by row why others cannot be used."""

    train: Train
    errors: Mapping[int, str]


def read_pool(task: ImageTask, read: Callable[[ImageTask], Labelled]) -> Pool | None:
    """Return the images of the train split, read by `read`, or None if the task has none; errors name the split."""
    if task.train is None:
        return None
    try:
        labelled = read(replace(task, paths=(task.train,), train=None))
        return Pool(Train(labelled.features, task.labels, labelled.targets), labelled.errors)
    except ValueError as error:
        raise ValueError(f"the train split of {task.name}, {task.train}: {error}") from error


def measure_shots(
    task: ImageTask, run: ShotRun, alone: ZeroShot, images: Measured, pool: Pool | None, *, encoder: Encoder | None
) -> Result:
    """Draw, build and measure the head of a run for each of its seeds; return the numbers over the seeds.

    task: the task.
    run: the head and the number of shots.
    alone: the classifier of the texts alone.
    images: the images to measure on.
    pool: the images to draw from, or None to draw from `images`.
    encoder: used by heads that train texts.

    The measures of the vocabulary count the predictions of all draws together. Raises ValueError if there are too few
    images, and for images with several labels if the head learns one label per image.
    """
    measured, answers, shots = [], [], []
    for seed in range(run.draws):
        train, test, rows = _draw(images, pool, shots=run.shots, seed=seed)
        shots.append(len(train))
        train, validation = inner_split(train) if run.protocol.validate else (train, None)
        options = run.protocol.options.get(run.head, {})
        floor = run.protocol.floor
        build = build_head(
            run.head, train.support(), encoder=encoder, options=options, validation=validation, floor=floor
        )
        text = alone.arrange(train.labels)
        text = replace(text, weights=text.weights.to(train.features.pooled.device))
        classifier = build(text)
        if run.refine:
            classifier = refined_by(classifier, text.weights, test.features)
        logits = classify_test(classifier, test)
        if isinstance(test.truth, SeveralLabels):
            numbers = average_precisions(logits, test.truth.marks)
        else:
            numbers = measure(logits, test.truth, task.labels, metric=task.metric)
            answers.append((logits, test.truth, rows))
        measured.append((*numbers, *measure_cost(classifier, numbers[0])))
    whole = run.shots == ALL
    measures = measured[0] if whole else over_draws(measured)
    if answers:
        logits, truth, _ = map(torch.cat, zip(*answers, strict=True))
        taken = measure_vocabulary(logits, truth, task.labels)
        # No interval over images: predictions of several draws for one image are not independent.
        measures += taken if whole else tuple(replace(number, low=None, high=None) for number in taken)
    failures = describe_failures(images.errors)
    counts = ImageCounts(
        images=len(test),
        failed=failures.failed,
        reasons=failures.reasons,
        drawn=tuple(shots),
        train=describe_failures(pool.errors) if pool else None,
    )
    tables = _image_tables(answers, task.labels)
    return Result(task.name, run.name, run.tier, run.key, run.settings, counts, measures, tables)


def refined_by(classifier: Classifier, texts: torch.Tensor, images: Features) -> Classifier:
    """Return a classifier refined by the images that it is measured on, by all their encoders; class texts [c, d]."""
    sample = sample_images([images], images_to_refine(len(texts)))
    if sample is None:
        return classifier
    return refine(classifier, sample, texts, held=held_evidence(classifier), further=tuple(images.others))


def _image_tables(
    answers: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], labels: LabelSet
) -> pa.Table | None:
    tables = [image_table(*answer, labels, draw=draw) for draw, answer in enumerate(answers)]
    return pa.concat_tables(tables) if tables else None


def over_draws(drawn: Sequence[Sequence[Measure]]) -> tuple[Measure, ...]:
    """Return the mean of every number -/+ its sample standard deviation, clipped to the range of the metric.

    A number measured once has no bounds.
    """
    values: dict[tuple[str, str], list[float]] = {}
    for one in (each for measures in drawn for each in measures):
        values.setdefault((one.metric, one.item), []).append(one.value)
    means = []
    for (metric, item), results in values.items():
        mean, spread = fmean(results), stdev(results) if len(results) > 1 else None
        highest = HIGHEST.get(metric, 1.0)
        bounds = (None, None) if spread is None else (max(0.0, mean - spread), min(highest, mean + spread))
        means.append(Measure(metric, item, mean, *bounds))
    return tuple(means)


def _draw(images: Measured, pool: Pool | None, *, shots: Shots, seed: int) -> tuple[Train, Test, torch.Tensor]:
    """Return the images to train on, those to measure on, and the rows of the latter."""
    test = images.test
    if pool is not None:
        train = pool.train if shots == ALL else draw_shots(pool.train, shots=shots, seed=seed)
        return train, test, images.rows
    assert shots != ALL, "plan_shots refuses"
    train, left = draw_from_whole(test.features, test.labels, test.truth, shots=shots, seed=seed)
    return train, left, torch.tensor([int(row) for row in left.features.ids])

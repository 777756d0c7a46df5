"""What the texts of a run alone decide: how they lie, which names would take images, and what synonyms change."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch

from rag_clip.classifiers.zero_shot import ZeroShot, zero_shot
from rag_clip.data import Prompts
from rag_clip.evaluation.results import Measure
from rag_clip.evaluation.rival_names import CandidateTexts, rivals_of, with_synonyms
from rag_clip.evaluation.splits import Test
from rag_clip.metrics.geometry import alignment, uniformity
from rag_clip.metrics.stability import swap_synonyms
from rag_clip.metrics.vocabulary import adversarial_names
from rag_clip.progress import Report, silent
from rag_clip.prompts.renamed import shared_templates, swap_names
from rag_clip.protocols import Encoder

WORST = 20


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
    if test.truth.ndim == 2 or len(alone.labels) < 2:
        return ()
    features = test.features.pooled
    held = {name: row for row, name in enumerate(alone.labels.names)}
    weights = alone.weights[[held[name] for name in test.labels.names]].to(features)
    found = [
        Measure("alignment", "", alignment(features, test.truth, weights)),
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
    found = adversarial_names(features, test.truth, weights, others, speaks=speaks, count=WORST)
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
    found = swap_synonyms(features, test.truth, weights, renamed.weights.to(features), classes)
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

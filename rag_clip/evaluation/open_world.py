"""Runs in an open world: how well images of classes that are left out are detected.

A third of the classes is held out by chance, ten times. Their images are novel, and each detector gives every image
a score of how known it is. ROC-AUC compares the scores of known and novel images; FPR95 is the share of novel
images that pass where 95 % of the known ones do. Names of held-out classes may be among the negatives, as names of what
a user did not think of may be in a corpus. Baselines: MCM, the maximum softmax probability (Ming et al., NeurIPS 2022,
arXiv 2211.13445); the maximum logit (Hendrycks et al., ICML 2022, arXiv 1911.11132); NegLabel with all negatives at
once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from rag_clip.classifiers.evidence import one_label
from rag_clip.classifiers.novelty import USUAL_THRESHOLD, Novelty
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import LabelSet, Prompts
from rag_clip.evaluation.few_shot import over_draws
from rag_clip.evaluation.image_tasks import Measured, describe_failures
from rag_clip.evaluation.open_runs import DRAWS, HELD_OUT, OpenRun
from rag_clip.evaluation.results import Measure, Result
from rag_clip.evaluation.rival_names import Candidates, CandidateTexts, negatives_of, with_synonyms
from rag_clip.evaluation.settings import ImageCounts
from rag_clip.metrics.ranking import false_positive_rate, roc_auc
from rag_clip.prompts.renamed import shared_templates


def measure_open(
    task: str,
    run: OpenRun,
    alone: ZeroShot,
    prompts: Prompts,
    images: Measured,
    texts_of: Callable[[Candidates], CandidateTexts],
) -> Result:
    """Return `roc_auc` and `fpr95` of each detector, of ours first, as means over the draws.

    task: the name of the task.
    run: the run.
    alone: the classifier of its texts.
    prompts: its prompts, in whose templates the names of other things are encoded.
    images: the images to measure on.
    texts_of: encodes names of other things.

    `known_kept` and `novel_found` are the shares of known images below, and of novel ones above, the usual threshold.
    Raises ValueError for images with several labels, if no draw has both known and novel images, and if all names share
    words with the classes.
    """
    truth, labels = one_label("test set", images.test.truth), with_synonyms(images.test.labels, prompts.labels)
    text = alone.arrange(labels)
    text = replace(text, weights=text.weights.to(images.test.features.pooled))
    held = [_held_out(len(labels), seed) for seed in range(DRAWS)]
    rows = [negatives_of(_part(labels, ~mask), run.names) for mask in held]
    used = sorted(set().union(*rows))
    kept = Candidates(run.names.place, tuple(run.names.names[row] for row in used))
    weights = texts_of(kept).weights(shared_templates(prompts)).to(text.weights)
    place_of = {row: place for place, row in enumerate(used)}
    measured = []
    for mask, of_draw in zip(held, rows, strict=True):
        novel = mask.to(truth.device)[truth]
        if bool(novel.any()) and not bool(novel.all()):
            known = replace(text, labels=_part(labels, ~mask), weights=text.weights[~mask])
            negatives = weights[[place_of[row] for row in of_draw]]
            measured.append(_measures(known, negatives, images.test.features.pooled, ~novel))
    if not measured:
        raise ValueError("no images of the held-out classes can be compared with others; give images of more classes")
    failures = describe_failures(images.errors)
    counts = ImageCounts(images=len(truth), failed=failures.failed, reasons=failures.reasons)
    return Result(task, run.name, run.tier, run.key, run.settings, counts, over_draws(measured))


def _held_out(classes: int, seed: int) -> torch.Tensor:
    """Return which classes are held out, bool [c]."""
    mask = torch.zeros(classes, dtype=torch.bool)
    mask[torch.randperm(classes, generator=torch.Generator().manual_seed(seed))[: classes // HELD_OUT]] = True
    return mask


def _part(labels: LabelSet, kept: torch.Tensor) -> LabelSet:
    rows = kept.nonzero()[:, 0].tolist()
    columns = {name: getattr(labels, name) for name in ("names", "ids", "synonyms", "groups")}
    return replace(labels, **{name: tuple(values[row] for row in rows) for name, values in columns.items()})


def _measures(text: ZeroShot, negatives: torch.Tensor, images: torch.Tensor, known: torch.Tensor) -> list[Measure]:
    scores = known_scores(text, negatives, images)
    found = [
        Measure(metric, name, measure(values.double(), known))
        for name, values in scores.items()
        for metric, measure in (("roc_auc", roc_auc), ("fpr95", false_positive_rate))
    ]
    kept = scores[""] >= 1 - USUAL_THRESHOLD
    return [
        *found,
        Measure("known_kept", "", float(kept[known].double().mean())),
        Measure("novel_found", "", float((~kept[~known]).double().mean())),
    ]


@torch.no_grad()
def known_scores(text: ZeroShot, negatives: torch.Tensor, images: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """Return how known each image [n, d] looks, [n], by each detector; '' is ours (see classifiers.novelty)."""
    logits = text.scale * images @ text.weights.T  # [n, c]
    return {
        "": 1 - Novelty(text, negatives)(images),
        "NegLabel, all at once": 1 - Novelty(text, negatives, in_a_group=len(negatives))(images),
        "maximum softmax (MCM)": logits.softmax(1).amax(1),
        "maximum logit": logits.amax(1),
    }

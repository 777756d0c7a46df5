"""Prepare what tells images of none of the classes: texts of other things, and a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from rag_clip.classifiers.novelty import PHRASES, USUAL_THRESHOLD, Novelty, OpenWorld, threshold_of
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import LabelSet, Prompts
from rag_clip.evaluation.rival_names import Candidates, CandidateTexts, negatives_of, read_candidates
from rag_clip.files.support import check_support_labels, read_support
from rag_clip.progress import Report
from rag_clip.prompts.renamed import shared_templates
from rag_clip.protocols import Encoder

from .predictions import Rejection


@dataclass(frozen=True, slots=True)
class NoveltyFacts:
    """How images of none of the classes were told.

    place: where the negatives are from; "names" for names that were given.
    negatives: their number.
    threshold: the novelty above which an image is none of the classes.
    by: how it was chosen.
    rejected: whether such images got no label.
    novel: how many images there were; 0 in the metadata of predictions, which are written before they are counted.
    """

    place: str
    negatives: int
    threshold: float
    by: Literal["given", "support", "usual"]
    rejected: bool
    novel: int = 0


def read_negatives(world: OpenWorld, labels: LabelSet, *, report: Report) -> Candidates:
    """Return the names of other things that share no name with the classes; raises as `read_candidates`."""
    if isinstance(world.negatives, str | Path):
        found = read_candidates(world.negatives, phrases=PHRASES, report=report)
    else:
        found = Candidates("names", tuple(dict.fromkeys(world.negatives)))
    return Candidates(found.place, tuple(found.names[row] for row in negatives_of(labels, found)))


def prepare_rejection(
    world: OpenWorld, negatives: Candidates, text: ZeroShot, prompts: Prompts, encoder: Encoder, *, report: Report
) -> tuple[Rejection, NoveltyFacts]:
    """Encode the negatives in the templates of the prompts, and choose the threshold; raises as `read_support`."""
    texts = CandidateTexts(negatives, encoder, report=report)
    novelty = Novelty(text, texts.weights(shared_templates(prompts)))
    threshold, by = _threshold(world, novelty, prompts.labels, encoder)
    facts = NoveltyFacts(negatives.place, len(negatives.names), threshold, by, world.reject)
    return Rejection(novelty, threshold, world.reject), facts


def _threshold(
    world: OpenWorld, novelty: Novelty, labels: LabelSet, encoder: Encoder
) -> tuple[float, Literal["given", "support", "usual"]]:
    if world.threshold is not None:
        return world.threshold, "given"
    shots = torch.empty(0) if world.support is None else _shots(world.support, labels, encoder)
    return (threshold_of(novelty(shots)), "support") if len(shots) else (USUAL_THRESHOLD, "usual")


def _shots(path: str | Path, labels: LabelSet, encoder: Encoder) -> torch.Tensor:
    """Return the features of the labelled images of a support file; found and painted ones were chosen by texts."""
    support = read_support(path, encoder=encoder.fingerprint)
    check_support_labels(path, support, labels)
    rows: Sequence[int] = [
        row
        for row, (origin, relevance) in enumerate(zip(support.origin, support.relevance.tolist(), strict=True))
        if origin == "shot" and relevance > 0
    ]
    return support.features[list(rows)].to(encoder.device)

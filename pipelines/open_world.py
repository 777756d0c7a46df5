"""Prepare what detects images of none of the classes: texts of other things, and a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from rag_clip.classifiers.evidence import shots_of
from rag_clip.classifiers.novelty import PHRASES, USUAL_THRESHOLD, Novelty, OpenWorld, threshold_of
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import LabelSet, Prompts
from rag_clip.evaluation.rival_names import Candidates, CandidateTexts, distinct, negatives_of, read_candidates
from rag_clip.files.support import check_support_labels, read_support
from rag_clip.progress import Report
from rag_clip.prompts.renamed import shared_templates
from rag_clip.protocols import Encoder

from .predictions import Rejection


@dataclass(frozen=True, slots=True)
class NoveltyFacts:
    """How images of none of the classes were detected.

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
        found = Candidates("names", distinct(world.negatives))
    return Candidates(found.place, tuple(found.names[row] for row in negatives_of(labels, found)))


def read_shots(world: OpenWorld, labels: LabelSet, encoder: Encoder) -> torch.Tensor | None:
    """Return the labelled images that choose the threshold, unit rows [m, d] on the encoder's device; None for none.

    Found and painted images were chosen by texts, and choose nothing. Raises as `read_support`, and for other classes.
    """
    if world.threshold is not None or world.support is None:
        return None
    support = read_support(world.support, encoder=encoder.fingerprint)
    check_support_labels(world.support, support, labels)
    rows = shots_of(support) & (support.relevance > 0)
    return support.features[rows].to(encoder.device) if bool(rows.any()) else None


def prepare_rejection(
    world: OpenWorld,
    negatives: Candidates,
    text: ZeroShot,
    prompts: Prompts,
    encoder: Encoder,
    *,
    shots: torch.Tensor | None,
    report: Report,
) -> tuple[Rejection, NoveltyFacts]:
    """Encode the negatives in the templates of the prompts, and choose the threshold, by `shots` if there are any."""
    texts = CandidateTexts(negatives, encoder, report=report)
    novelty = Novelty(text, texts.weights(shared_templates(prompts)))
    threshold, by = _threshold(world, novelty, shots)
    facts = NoveltyFacts(negatives.place, len(negatives.names), threshold, by, world.reject)
    return Rejection(novelty, threshold, world.reject), facts


def _threshold(
    world: OpenWorld, novelty: Novelty, shots: torch.Tensor | None
) -> tuple[float, Literal["given", "support", "usual"]]:
    if world.threshold is not None:
        return world.threshold, "given"
    return (USUAL_THRESHOLD, "usual") if shots is None else (threshold_of(novelty(shots)), "support")
